/** The tool calls of an answer: their names, with their arguments folded. The page itself runs no tools. */
import { element } from "./element.js";
import { t } from "./words.js";

const INPUT = /^response\.(function_call_arguments|custom_tool_call_input)\.delta$/;

export class ToolCalls {
  node = element("div", { className: "tools-called", hidden: true });
  /** By the id of the item: `{ name, input, parts }`. */
  #calls = new Map();

  get isEmpty() { return this.#calls.size === 0; }
  /** What `restore` shows again. */
  get saved() { return [...this.#calls].map(([id, { name, input }]) => ({ id, name, input })); }

  clear() {
    this.#calls.clear();
    this.node.replaceChildren();
    this.node.hidden = true;
  }

  restore(saved) {
    this.clear();
    for (const { id, name, input } of saved) this.#put(id, name, input);
  }

  /** Takes an event of the stream. A reset brings the whole response. */
  take(event) {
    if (event.type === "tokenwire:reset") {
      for (const item of event.response?.output ?? []) this.#item(item);
    } else if (event.type === "response.output_item.added" || event.type === "response.output_item.done") {
      this.#item(event.item);
    } else if (INPUT.test(event.type)) {
      const call = this.#calls.get(event.item_id);
      if (call) this.#put(event.item_id, call.name, call.input + event.delta);
    }
  }

  #item(item) {
    if (!item?.type?.endsWith("_call")) return;
    // Built-in tools, such as web_search_call, have no name.
    this.#put(item.id, item.name ?? item.type.slice(0, -"_call".length), item.arguments ?? item.input ?? "");
  }

  #put(id, name, input) {
    let call = this.#calls.get(id);
    if (!call) {
      const code = element("pre", { tabIndex: 0, role: "region", "aria-label": t("Tool call: {name}", { name }) });
      const details = element("details", { className: "tool" }, element("summary", { textContent: t("Tool call: {name}", { name }) }), code);
      call = { name, input: "", code };
      this.#calls.set(id, call);
      this.node.append(details);
      this.node.hidden = false;
    }
    // What was read again after a reconnect is not longer than what is shown.
    if (input === "" || (call.input.startsWith(input) && call.input !== "")) return;
    call.input = input;
    call.code.textContent = readable(input);
  }
}

/** Returns JSON with line breaks, and any other text as it is. */
function readable(input) {
  try {
    return JSON.stringify(JSON.parse(input), null, 2);
  } catch {
    return input;
  }
}
