/** The panel with the conversations that this browser keeps: open, rename, delete. */
import * as store from "./conversation_store.js";
import { element } from "./element.js";
import { t } from "./words.js";

const PENCIL = "M4 20l1-4L16 5l3 3L8 19z";
const BIN = "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13";

export class ConversationList {
  #dialog;
  #list;
  #open;
  #isCurrent;
  #forget;

  /** `open(record)` shows a conversation, `isCurrent(id)` tells the one that is shown, `forget(id)` is called before one is deleted. */
  constructor(dialog, { open, isCurrent, forget }) {
    this.#dialog = dialog;
    this.#list = dialog.querySelector("ul");
    this.#open = open;
    this.#isCurrent = isCurrent;
    this.#forget = forget;
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    // A click beside the panel closes it.
    dialog.addEventListener("click", ({ target }) => { if (target === dialog) dialog.close(); });
  }

  async show() {
    this.#dialog.showModal();
    await this.#draw();
  }

  async #draw() {
    const none = this.#dialog.querySelector(".none");
    try {
      const conversations = await store.list();
      this.#list.replaceChildren(...conversations.map((each) => this.#row(each)));
      none.textContent = t("Your conversations will be listed here. They are kept in this browser only.");
      none.hidden = conversations.length > 0;
    } catch {
      none.textContent = t("This browser does not allow the page to keep conversations.");
      none.hidden = false;
    }
  }

  #row({ id, title, updated }) {
    const name = title || t("Without a question");
    const row = element("li", { "data-id": id });
    const open = element("button", { type: "button", className: "open", onclick: () => this.#choose(id) },
      element("span", { className: "title", textContent: name }), element("time", { dateTime: new Date(updated).toISOString(), textContent: when(updated) }));
    if (this.#isCurrent(id)) open.setAttribute("aria-current", "true");
    row.append(open,
      iconButton(t("Rename: {name}", { name }), PENCIL, () => this.#rename(row, { id, title, updated })),
      iconButton(t("Delete: {name}", { name }), BIN, () => this.#delete(row, id, name)));
    return row;
  }

  async #choose(id) {
    const record = await store.load(id);
    this.#dialog.close();
    if (record) this.#open(record);
  }

  #rename(row, conversation) {
    const input = element("input", { type: "text", value: conversation.title, maxLength: 80, "aria-label": t("Title") });
    const form = element("form", {}, input, element("button", { type: "submit", textContent: t("Save") }));
    let isOver = false;
    const end = (title) => {
      if (isOver) return;
      isOver = true;
      const renamed = this.#row({ ...conversation, title });
      row.replaceWith(renamed);
      renamed.querySelector("button:nth-of-type(2)").focus();
    };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const title = input.value.trim();
      if (title) await store.rename(conversation.id, title);
      end(title || conversation.title);
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      // The panel stays open.
      event.preventDefault();
      event.stopPropagation();
      end(conversation.title);
    });
    row.replaceChildren(form);
    input.select();
  }

  async #delete(row, id, name) {
    // First, so that nothing stores it again.
    this.#forget(id);
    const record = await store.remove(id);
    const undo = element("button", { type: "button", textContent: t("Undo"), onclick: async () => {
      await store.restore(record);
      await this.#draw();
      this.#list.querySelector(`[data-id="${id}"] .open`)?.focus();
    } });
    row.replaceChildren(element("span", { className: "deleted", textContent: t("Deleted: {name}", { name }) }), undo);
    undo.focus();
  }
}

function iconButton(label, path, act) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: 18, height: 18, "aria-hidden": true })) svg.setAttribute(key, value);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [key, value] of Object.entries({ d: path, fill: "none", stroke: "currentColor", "stroke-width": 1.8, "stroke-linejoin": "round" })) line.setAttribute(key, value);
  svg.append(line);
  return element("button", { type: "button", className: "quiet icon", "aria-label": label, title: label, onclick: act }, svg);
}

/** Returns the time of today, or the date. */
function when(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(document.documentElement.lang, isToday ? { timeStyle: "short" } : { dateStyle: "medium" });
}
