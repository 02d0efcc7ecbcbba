/** Renders inline Markdown (code, emphasis, links) as DOM nodes, never as markup. */
import { element } from "./element.js";

const MAX_DEPTH = 12;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const BARE_URL = /^https?:\/\/[^\s<>"'`|]+/;

/** Returns the address if it is safe for a link, else null. A model may write anything; `javascript:` must not become a link. */
export function safeAddress(text) {
  const address = text.trim();
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return null;
  try {
    return new URL(address).href;
  } catch {
    return null;
  }
}

function link(address, ...children) {
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...children);
}

/** Returns the nodes of `text`. An open text is still growing: its unclosed delimiters count as closed. */
export function inline(text, { open = false, depth = 0, inLink = false } = {}) {
  const nodes = [];
  let plain = "";
  const flush = () => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
  };
  const put = (node) => {
    flush();
    nodes.push(node);
  };
  /** Delimiters that do not occur in the rest. Without this a line of asterisks takes quadratic time. */
  const missing = new Set();
  const find = (mark, from, accepts) => {
    if (missing.has(mark)) return -1;
    for (let at = text.indexOf(mark, from); at >= 0; at = text.indexOf(mark, at + 1)) if (accepts(at)) return at;
    missing.add(mark);
    return -1;
  };
  const inner = (from, to, name) => element(name, {}, ...inline(text.slice(from, to), { open, depth: depth + 1, inLink }));

  let at = 0;
  while (at < text.length) {
    const char = text[at];
    const rest = () => text.slice(at, at + 2048);

    if (char === "\\" && ESCAPABLE.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else if (char === "\\" && text[at + 1] === "\n") {
      put(element("br"));
      at += 2;
    } else if (char === "\n") {
      if (/ {2,}$/.test(plain)) {
        plain = plain.trimEnd();
        put(element("br"));
      } else {
        plain += "\n";
      }
      at += 1;
    } else if (char === "`") {
      const mark = /^`+/.exec(rest())[0];
      const from = at + mark.length;
      const end = find(mark, from, (place) => text[place + mark.length] !== "`" && text[place - 1] !== "`");
      if (end >= 0 || (open && from < text.length)) {
        put(element("code", { textContent: text.slice(from, end < 0 ? undefined : end).replace(/^ (.*\S.*) $/s, "$1") }));
        at = end < 0 ? text.length : end + mark.length;
      } else {
        plain += mark;
        at = from;
      }
    } else if ((char === "*" || char === "_" || char === "~") && depth < MAX_DEPTH) {
      const mark = /^(\*\*\*|\*\*|\*|___|__|_|~~)/.exec(rest())?.[0] ?? char;
      const from = at + mark.length;
      const opens = mark !== "~" && /\S/.test(text[from] ?? "") && (char !== "_" || !/[\p{L}\p{N}]/u.test(text[at - 1] ?? ""));
      const closes = (place) => place > from && /\S/.test(text[place - 1]) && text[place - 1] !== "\\" && text[place + mark.length] !== char
        && (mark.length > 1 || text[place - 1] !== char)
        && (char !== "_" || !/[\p{L}\p{N}]/u.test(text[place + mark.length] ?? ""));
      let end = opens ? find(mark, from, closes) : -1;
      // In a growing text, bold begins at its opening delimiter.
      const isUnfinished = end < 0 && open && opens && mark.length === 2;
      if (isUnfinished) end = text.length;
      if (end >= 0) {
        if (mark.length === 3) put(element("em", {}, inner(from, end, "strong")));
        else put(inner(from, end, mark === "~~" ? "s" : mark.length === 2 ? "strong" : "em"));
        at = Math.min(text.length, end + mark.length);
      } else {
        plain += mark;
        at = from;
      }
    } else if (char === "[" || (char === "!" && text[at + 1] === "[")) {
      const match = /^!?\[((?:\\.|[^[\]\\]|\[[^[\]]*\])*)\]\(\s*(<[^<>\n]*>|[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/.exec(rest());
      const address = match && !inLink ? safeAddress(match[2].replace(/^<|>$/g, "")) : null;
      if (match) {
        const label = match[1] || match[2];
        // An image would load from another origin, so it is shown as a link. An unsafe link is shown as its label.
        if (address) put(link(address, ...inline(label, { depth: depth + 1, inLink: true })));
        else for (const node of inline(label, { depth: depth + 1, inLink })) put(node);
        at += match[0].length;
      } else {
        plain += char;
        at += 1;
      }
    } else if (char === "<") {
      const match = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/.exec(rest());
      const address = match && !inLink ? safeAddress(match[1]) : null;
      if (address) {
        put(link(address, match[1]));
        at += match[0].length;
      } else {
        plain += char;
        at += 1;
      }
    } else if (char === "h" && !inLink && !/[\p{L}\p{N}]$/u.test(plain) && BARE_URL.test(rest())) {
      let written = BARE_URL.exec(rest())[0].replace(/[.,;:!?*_~]+$/, "");
      while (written.endsWith(")") && written.split(")").length > written.split("(").length) written = written.slice(0, -1);
      const address = safeAddress(written);
      if (address) put(link(address, written));
      else plain += written;
      at += written.length;
    } else {
      plain += char;
      at += 1;
    }
  }
  flush();
  return nodes;
}
