/** Builds DOM nodes; text is always text. */

/** An element with properties, attributes (`aria-…`, `data-…`, …) and children (nodes, strings, or nothing). */
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

/** Copies text, and says so on the button. */
export function copyButton(label, text) {
  const button = element("button", { type: "button", className: "quiet", textContent: label });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed to copy";
    }
    button.dispatchEvent(new CustomEvent("say", { bubbles: true, detail: button.textContent }));
    setTimeout(() => { button.textContent = label; }, 2000);
  });
  return button;
}
