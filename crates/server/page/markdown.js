/**
 * Renders streamed Markdown: finished blocks are drawn once, only the growing block is redrawn.
 *
 * Only the text after the last finished block is parsed, so the cost per token does not grow with the answer.
 */
import { copyButton, element } from "./element.js";
import { inline } from "./inline.js";
import { t } from "./words.js";

const MAX_DEPTH = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\n`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*))?$/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Renders one growing text into one container. */
export class MarkdownView {
  #container;
  #text = "";
  /** Offset of the first block that may still change. */
  #settled = 0;
  #open = null;

  constructor(container) {
    this.#container = container;
  }

  get text() {
    return this.#text;
  }

  /** Shows `text`, which usually begins with the text shown before. `done` means that it is complete. */
  show(text, { done = false } = {}) {
    if (!text.startsWith(this.#text)) {
      this.#container.replaceChildren();
      this.#settled = 0;
      this.#open = null;
    }
    this.#text = text;
    const blocks = split(text.slice(this.#settled));
    const last = blocks.length - 1;
    const base = this.#settled;
    blocks.forEach((block, at) => {
      const isOpen = at === last && !done;
      if (at === 0 && this.#open) this.#open = redraw(this.#open, block, isOpen);
      else {
        this.#open = { block, node: draw(block, { open: isOpen, depth: 0 }) };
        this.#container.append(this.#open.node);
      }
      if (at < last) {
        this.#open = null;
        this.#settled = base + blocks[at + 1].from;
      }
    });
  }
}

/** Appends the new text to a growing code block, so that its selection and scroll position stay. */
function redraw(old, block, isOpen) {
  if (old.block.kind === "code" && block.kind === "code" && old.block.language === block.language) {
    old.node.querySelector("code").firstChild.data = block.text;
    return { block, node: old.node };
  }
  const node = draw(block, { open: isOpen, depth: 0 });
  old.node.replaceWith(node);
  return { block, node };
}

/** Returns the blocks of a text with their offsets. */
export function split(text) {
  const lines = text.split("\n");
  const starts = [];
  let offset = 0;
  for (const line of lines) {
    starts.push(offset);
    offset += line.length + 1;
  }
  const blocks = [];
  let at = 0;
  const add = (block, from) => blocks.push({ ...block, from: starts[from] });

  while (at < lines.length) {
    const line = lines[at];
    const from = at;
    let match;
    if (line.trim() === "") {
      at += 1;
    } else if ((match = FENCE.exec(line))) {
      const closing = new RegExp(`^ {0,3}\\${match[1][0]}{${match[1].length},}[ \\t]*$`);
      const indent = /^ */.exec(line)[0].length;
      const code = [];
      at += 1;
      while (at < lines.length && !closing.test(lines[at])) {
        code.push(lines[at].replace(new RegExp(`^ {0,${indent}}`), ""));
        at += 1;
      }
      // The last line may become the closing fence, so it is not shown as code yet.
      if (at === lines.length && /^ {0,3}(`+|~+)$/.test(code.at(-1) ?? "")) code.pop();
      at += 1;
      add({ kind: "code", language: match[2].trim().split(/\s+/)[0] ?? "", text: code.join("\n") }, from);
    } else if ((match = HEADING.exec(line))) {
      add({ kind: "heading", level: match[1].length, text: match[2] ?? "" }, from);
      at += 1;
    } else if (RULE.test(line)) {
      add({ kind: "rule" }, from);
      at += 1;
    } else if (QUOTE.test(line)) {
      const quoted = [];
      while (at < lines.length && (QUOTE.test(lines[at]) || (lines[at].trim() !== "" && !begins(lines, at)))) {
        quoted.push(lines[at].replace(QUOTE, ""));
        at += 1;
      }
      add({ kind: "quote", text: quoted.join("\n") }, from);
    } else if (ITEM.test(line)) {
      const list = readList(lines, at);
      at = list.end;
      add({ kind: "list", ordered: list.ordered, start: list.start, loose: list.loose, items: list.items }, from);
    } else if (line.includes("|") && TABLE_RULE.test(lines[at + 1] ?? "") && cells(line).length === cells(lines[at + 1]).length) {
      const align = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : null));
      at += 2;
      const rows = [];
      while (at < lines.length && lines[at].trim() !== "" && !begins(lines, at)) {
        rows.push(cells(lines[at]));
        at += 1;
      }
      add({ kind: "table", head: cells(line), align, rows }, from);
    } else {
      const paragraph = [];
      while (at < lines.length && lines[at].trim() !== "" && (at === from || !begins(lines, at))) {
        paragraph.push(lines[at].trimStart());
        at += 1;
      }
      add({ kind: "paragraph", text: paragraph.join("\n") }, from);
    }
  }
  return blocks;
}

/** Returns whether a line begins a block without a blank line before it. */
function begins(lines, at) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || isItem(line)
    || (line.includes("|") && TABLE_RULE.test(lines[at + 1] ?? ""));
}

/** Inside a paragraph only the number 1 begins a list. */
function isItem(line) {
  const match = ITEM.exec(line);
  return match !== null && match[4] !== undefined && (!/\d/.test(match[2]) || /^1[.)]$/.test(match[2]));
}

function readList(lines, begin) {
  const first = ITEM.exec(lines[begin]);
  const mark = first[2].at(-1);
  const ordered = /\d/.test(first[2]);
  const items = [];
  let loose = false;
  let at = begin;
  while (at < lines.length) {
    const match = ITEM.exec(lines[at]);
    if (!match || match[2].at(-1) !== mark || RULE.test(lines[at])) break;
    const content = Math.min(match[1].length + match[2].length + Math.min((match[3] ?? " ").length, 4), 12);
    const item = [match[4] ?? ""];
    at += 1;
    while (at < lines.length) {
      const line = lines[at];
      const indent = /^ */.exec(line.replace(/\t/g, "    "))[0].length;
      if (line.trim() === "") {
        // A blank line ends the item unless the next line is indented under it.
        let next = at + 1;
        while (next < lines.length && lines[next].trim() === "") next += 1;
        if (next >= lines.length || /^ */.exec(lines[next].replace(/\t/g, "    "))[0].length < Math.min(content, 2)) break;
        loose = true;
        item.push("");
        at += 1;
      } else if (indent >= Math.min(content, match[1].length + 2)) {
        item.push(line.replace(/\t/g, "    ").slice(Math.min(indent, content)));
        at += 1;
      } else if (begins(lines, at) || ITEM.test(line) || lines[at - 1].trim() === "") {
        break;
      } else {
        item.push(line.trimStart());
        at += 1;
      }
    }
    items.push(item.join("\n"));
    let next = at;
    while (next < lines.length && lines[next].trim() === "") next += 1;
    const follows = next < lines.length ? ITEM.exec(lines[next]) : null;
    if (!follows || follows[2].at(-1) !== mark) break;
    if (next > at) loose = true;
    at = next;
  }
  return { items, ordered, start: ordered ? Number.parseInt(first[2], 10) : null, loose, end: at };
}

function cells(line) {
  const bare = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return bare.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** Renders one block as a node. */
function draw(block, { open, depth }) {
  // A mark at the end of a growing text may begin or end emphasis. It is not shown, since it would vanish again.
  const text = (value) => inline(open ? value.replace(/[*_~`]+$/, "") : value, { open });
  switch (block.kind) {
    case "code":
      return drawCode(block);
    case "heading":
      // The page itself uses the first and second level.
      return element(`h${Math.min(6, block.level + 2)}`, { className: `level-${block.level}` }, ...text(block.text));
    case "rule":
      return element("hr");
    case "quote":
      return element("blockquote", {}, ...inside(block.text, { open, depth }));
    case "list": {
      const last = block.items.length - 1;
      const items = block.items.map((item, at) => element("li", {}, ...drawItem(item, block.loose, { open: open && at === last, depth })));
      return element(block.ordered ? "ol" : "ul", { start: block.ordered && block.start !== 1 ? block.start : undefined }, ...items);
    }
    case "table":
      return drawTable(block, text);
    default:
      return element("p", {}, ...text(block.text));
  }
}

function inside(text, { open, depth }) {
  if (depth >= MAX_DEPTH) return [text];
  const blocks = split(text);
  return blocks.map((block, at) => draw(block, { open: open && at === blocks.length - 1, depth: depth + 1 }));
}

function drawItem(text, loose, { open, depth }) {
  const task = /^\[([ xX])\][ \t]+/.exec(text);
  const box = task ? element("input", { type: "checkbox", disabled: true, checked: task[1] !== " ", "aria-label": task[1] === " " ? t("not done") : t("done") }) : null;
  const nodes = inside(task ? text.slice(task[0].length) : text, { open, depth });
  // Items of a tight list are lines, not paragraphs.
  const flat = loose ? nodes : nodes.flatMap((node) => (node.nodeName === "P" ? [...node.childNodes] : [node]));
  return box ? [box, " ", ...flat] : flat;
}

function drawTable({ head, align, rows }, text) {
  const cell = (name, value, at, more = {}) => element(name, { className: align[at] ? `to-${align[at]}` : undefined, ...more }, ...text(value));
  return element("div", { className: "table", tabIndex: 0, role: "region", "aria-label": t("Table") },
    element("table", {},
      element("thead", {}, element("tr", {}, ...head.map((value, at) => cell("th", value, at, { scope: "col" })))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...head.map((_, at) => cell("td", row[at] ?? "", at))))),
    ));
}

function drawCode({ language, text }) {
  const code = element("code", {}, document.createTextNode(text));
  return element("div", { className: "code" },
    element("div", { className: "code-head" }, element("span", { textContent: language || t("text") }), copyButton(t("Copy"), () => code.textContent)),
    element("pre", { tabIndex: 0, role: "region", "aria-label": language ? t("Code, {language}", { language }) : t("Code") }, code),
  );
}
