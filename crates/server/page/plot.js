/** Plots of the last minutes, as SVG without a library. */
import { SPAN } from "./activity_log.js";
import { t } from "./words.js";

const HEIGHT = 132;
const LEFT = 52;
const BOTTOM = 18;
const TOP = 8;
const SVG = "http://www.w3.org/2000/svg";

function node(name, attributes, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

/** The spans that a plot may have, in milliseconds, with the seconds that are named below it. */
const SPANS = [[60_000, [60, 30]], [120_000, [120, 60]], [SPAN, [240, 120]]];
const OPENED = Date.now();

/** A frame with times below, which begins when the page was opened. `place` gives the height of a value from 0 to 1, `ticks` are the labels. */
function frame(svg, ticks, place, now) {
  const [span, seconds] = SPANS.find(([span]) => now - OPENED < span) ?? SPANS.at(-1);
  const width = Math.max(svg.clientWidth, 220);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const y = (value) => HEIGHT - BOTTOM - place(value) * (HEIGHT - BOTTOM - TOP);
  const parts = [];
  for (const { value, label } of ticks) {
    parts.push(node("line", { x1: LEFT, x2: width, y1: y(value), y2: y(value), class: "grid" }));
    parts.push(node("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, label));
  }
  const at = (ago) => width - (ago / span) * (width - LEFT);
  for (const ago of seconds) {
    const text = ago < 60 ? t("{count} s ago", { count: ago }) : t("{count} min ago", { count: ago / 60 });
    parts.push(node("text", { x: at(ago * 1000), y: HEIGHT - 2, "text-anchor": ago * 1000 === span ? "start" : "middle" }, text));
  }
  parts.push(node("text", { x: width, y: HEIGHT - 2, "text-anchor": "end" }, t("now")));
  return { y, x: (time) => at(now - time), second: ((width - LEFT) / span) * 1000, parts };
}

/** Draws bars of values that come once a second. */
export function bars(svg, points, label, now = Date.now()) {
  const top = niceTop(Math.max(10, ...points.map(({ value }) => value)));
  const ticks = [0, top / 2, top].map((value) => ({ value, label: short(value) }));
  const { x, y, second, parts } = frame(svg, ticks, (value) => value / top, now);
  const wide = Math.max(1, second - 0.5);
  for (const { at, value } of points) {
    const left = x(at) - wide;
    if (value > 0 && left >= LEFT) parts.push(node("rect", { x: left.toFixed(1), y: y(value).toFixed(1), width: wide.toFixed(1), height: (HEIGHT - BOTTOM - y(value)).toFixed(1) }));
  }
  svg.replaceChildren(...parts);
  const last = points.at(-1);
  svg.setAttribute("aria-label", last ? t("{label}: {value} now, at most {top} in 5 minutes", { label, value: short(last.value), top: short(Math.max(...points.map(({ value }) => value))) }) : t("{label}: nothing yet", { label }));
}

/** Draws times in milliseconds on a logarithmic scale, each with an upper one if it has that. */
export function times(svg, points, label, now = Date.now()) {
  const values = points.flatMap(({ value, upper }) => [value, upper ?? value]);
  const from = Math.floor(Math.log10(Math.max(1, Math.min(1000, ...values))));
  const to = Math.max(from + 2, Math.ceil(Math.log10(Math.max(10, ...values))));
  const place = (value) => Math.min(1, Math.max(0, (Math.log10(Math.max(value, 10 ** from)) - from) / (to - from)));
  const ticks = Array.from({ length: to - from + 1 }, (_, at) => ({ value: 10 ** (from + at), label: decade(from + at) }));
  const { x, y, parts } = frame(svg, ticks, place, now);
  for (const { at, value, upper } of points) {
    const left = x(at);
    if (left < LEFT) continue;
    if (upper !== undefined) {
      const [cx, cy] = [left, y(upper)];
      parts.push(node("path", { d: `M${cx.toFixed(1)} ${(cy - 4).toFixed(1)}l4 4l-4 4l-4 -4z`, class: "upper" }));
    }
    parts.push(node("circle", { cx: left.toFixed(1), cy: y(value).toFixed(1), r: 3 }));
  }
  svg.replaceChildren(...parts);
  const sorted = points.map(({ value }) => value).sort((one, other) => one - other);
  const median = sorted[Math.floor(sorted.length / 2)];
  svg.setAttribute("aria-label", sorted.length > 0 ? t("{label}: median {median}, longest {longest}", { label, median: time(median), longest: time(Math.max(...values)) }) : t("{label}: nothing yet", { label }));
}

/** Returns ten to this power, in milliseconds, with its unit. */
function decade(power) {
  return power < 3 ? `${10 ** power} ms` : `${10 ** (power - 3)} s`;
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= value);
}

/** Returns a number with three digits at most. */
export function short(value) {
  if (value >= 9950) return `${(value / 1000).toFixed(0)} k`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} k`;
  return String(value >= 10 ? Math.round(value) : Number(value.toFixed(1)));
}

/** Returns a time with its unit. */
export function time(milliseconds) {
  if (milliseconds < 10 && !Number.isInteger(milliseconds)) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 60_000) return `${Number((milliseconds / 1000).toFixed(1))} s`;
  return t("{minutes} min {seconds} s", { minutes: Math.floor(milliseconds / 60_000), seconds: Math.floor(milliseconds / 1000) % 60 });
}
