/** Builds DOM nodes. Text never becomes markup. */
import { t } from "./words.js";

/** Returns an element with properties, attributes (`aria-…`, `data-…`, …) and children (nodes, strings or null). */
export function element(name, settings = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(settings)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.includes("-") || ["role", "for", "scope", "start"].includes(key)) node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Copies a text. Returns whether it could: on plain http to another machine browsers have no clipboard. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** Returns a button that copies text and shows the result. */
export function copyButton(label, text) {
  const button = element("button", { type: "button", className: "quiet", textContent: label });
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text())) ? t("Copied") : t("Not allowed to copy");
    button.dispatchEvent(new CustomEvent("say", { bubbles: true, detail: button.textContent }));
    setTimeout(() => { button.textContent = label; }, 2000);
  });
  return button;
}
