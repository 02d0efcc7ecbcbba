/** A question and its answer on the page. */
import { copyButton, element } from "./element.js";
import { MarkdownView } from "./markdown.js";
import { picture } from "./pictures.js";
import { ToolCalls } from "./tool_calls.js";
import { t } from "./words.js";

export class Turn {
  question;
  /** The pictures of the question, as data URLs. */
  pictures;
  /** The id of the answer, if it is complete and the next turn can refer to it. */
  id = null;
  status = "running";
  /** The id of the answer, however it ended; null until the gateway has named it. */
  answer = null;
  /** What is said below an answer that ended, and why one failed: `{ code, message, explanation }`. */
  remark = null;
  failure = null;
  /** The tools that the model called. */
  calls = new ToolCalls();
  node;
  #parts;
  #view;
  #reasoning = "";
  #text = "";
  #frame = null;

  /** `act` are the actions of the buttons. */
  constructor(question, pictures, act) {
    this.question = question;
    this.pictures = pictures;
    const reasoning = element("div");
    const parts = {
      title: element("h3", { className: "unseen", textContent: t("Answer") }),
      reasoning,
      thoughts: element("details", { className: "reasoning", hidden: true }, element("summary", { textContent: t("Thoughts") }), reasoning),
      calls: this.calls.node,
      waiting: element("div", { className: "waiting", "aria-hidden": "true" }, element("i"), element("i"), element("i")),
      markdown: element("div", { className: "markdown" }),
      note: element("p", { className: "note", hidden: true }),
      error: element("div", { className: "error", hidden: true }),
      actions: element("div", { className: "actions", hidden: true }),
    };
    this.#parts = parts;
    this.#view = new MarkdownView(parts.markdown);
    const again = element("button", { type: "button", className: "quiet again", textContent: t("Ask again"), onclick: () => act.again(this) });
    parts.actions.append(copyButton(t("Copy answer"), () => this.#text), again);
    this.node = element("article", { className: "turn", "aria-label": t("Question: {text}", { text: question.slice(0, 80) }) },
      element("div", { className: "question", hidden: question === "" }, element("h3", { className: "unseen", textContent: t("Question") }),
        element("div", { className: "asked" },
          ...pictures.map((url, at) => picture(url, t("Picture {number}", { number: at + 1 }))),
          element("p", { textContent: question }))),
      element("div", { className: "answer" }, ...["title", "thoughts", "calls", "waiting", "markdown", "note", "error", "actions"].map((name) => parts[name])),
    );
  }

  get text() { return this.#text; }
  get reasoning() { return this.#reasoning; }

  /** Clears the answer, for a repetition of the question. */
  restart() {
    this.id = this.answer = this.remark = this.failure = null;
    this.status = "running";
    this.#text = "";
    this.#reasoning = "";
    this.calls.clear();
    this.#parts.error.hidden = true;
    this.#parts.actions.hidden = true;
    this.note(null);
    this.#draw();
  }

  /** Reads the same answer on. What is shown of it stays. */
  resume() {
    this.status = "running";
    this.failure = null;
    this.#parts.error.hidden = true;
    this.#parts.actions.hidden = true;
    this.#draw();
  }

  /** Shows the answer so far with the next frame. Unless it is `complete`, it does not replace a longer text that begins with it. */
  show(text, reasoning = "", { complete = false } = {}) {
    if (complete || !this.#text.startsWith(text)) this.#text = text;
    if (complete || !this.#reasoning.startsWith(reasoning)) this.#reasoning = reasoning;
    this.#frame ??= requestAnimationFrame(() => this.#draw());
  }

  /** Shows a note under the answer, such as that it reconnects. Null hides it. */
  note(text) {
    this.#parts.note.textContent = text ?? "";
    this.#parts.note.hidden = text === null;
    this.#grow();
  }

  /** Ends the answer. `status` is completed, incomplete, cancelled or failed. */
  end(status, id, remark = null) {
    this.status = status;
    this.id = id;
    this.remark = remark;
    this.#parts.actions.hidden = false;
    this.#parts.actions.querySelector(".again").hidden = false;
    this.note(remark);
    this.#draw();
  }

  /** Shows why the answer failed, below its text, and a button for each of `ways`: `{ label, act }`. */
  fail(error, ways) {
    this.status = "failed";
    this.note(null);
    const explanation = t(error.explanation ?? error.message);
    this.failure = { code: error.code ?? null, message: error.message, explanation: error.explanation ?? error.message };
    const facts = [error.message === (error.explanation ?? error.message) ? null : error.message, error.code ? `(${error.code})` : null].filter(Boolean).join(" ");
    this.#parts.error.replaceChildren(element("p", { textContent: explanation }));
    if (facts) this.#parts.error.append(element("details", {}, element("summary", { textContent: t("Details") }), element("p", { textContent: facts })));
    if (ways.length > 0) {
      const buttons = ways.map(({ label, act }) => element("button", { type: "button", textContent: label, onclick: act }));
      this.#parts.error.append(element("div", { className: "actions" }, ...buttons));
    }
    this.#parts.error.hidden = false;
    this.#parts.actions.hidden = this.#text === "";
    this.#parts.actions.querySelector(".again").hidden = ways.length > 0;
    this.#draw();
  }

  #draw() {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    const running = this.status === "running";
    // A text that breaks off is shown as it was while it grew, without marks that nothing closes.
    this.#view.show(this.#text, { done: ["completed", "told"].includes(this.status) });
    this.#parts.waiting.hidden = !running || this.#text !== "" || !this.calls.isEmpty;
    this.#parts.thoughts.hidden = this.#reasoning === "";
    if (this.#parts.reasoning.textContent !== this.#reasoning) this.#parts.reasoning.textContent = this.#reasoning;
    this.#grow();
  }

  #grow() {
    this.node.dispatchEvent(new CustomEvent("grown", { bubbles: true }));
  }
}
