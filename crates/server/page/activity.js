/** The page of activity: connects the feed, what it has brought, and the elements. */
import { ActivityFeed } from "./activity_feed.js";
import { ActivityLog } from "./activity_log.js";
import { element } from "./element.js";
import { kept } from "./kept.js";
import { headers, ready, useKey } from "./key.js";
import { bars, short, time, times } from "./plot.js";
import { switchTheme } from "./theme_switch.js";
import { t, translate } from "./words.js";

translate(document.head);
translate(document.body);

const $ = (id) => document.getElementById(id);
/** Most open streams that are listed. */
const MOST_OPEN = 200;
/** Most streams that the gateway names to a page when it comes. */
const MOST_NAMED = 1000;
/** Pause between two drawings, in milliseconds. */
const DRAWN_EVERY = 500;
/** Pause between two messages for screen readers, in milliseconds. */
const SAID_EVERY = 5000;

const STATES = { connecting: t("Connecting"), live: t("Live"), waiting: t("Reconnecting"), offline: t("Offline"), paused: t("Paused"), failed: t("No access") };
/** The colours of the chat page's states. */
const COLOURS = { connecting: "connecting", live: "streaming", waiting: "waiting", offline: "offline", paused: "idle", failed: "failed" };
const ENDS = {
  completed: t("completed"), incomplete: t("incomplete"), failed: t("failed"), cancelled: t("cancelled"),
  max_output_tokens: t("limit of tokens"), content_filter: t("content filter"),
};
const UPSTREAMS = { up: t("up"), trial: t("on trial"), down: t("down") };
const ACTIONS = { notify: t("notify"), webhook: t("webhook"), stop: t("stop") };
const PARTS = { text: t("text"), refusal: t("refusal"), reasoning: t("reasoning"), reasoning_summary: t("reasoning"), arguments: t("arguments") };

const log = new ActivityLog();
const feed = new ActivityFeed();
let paused = false;
let drawing = null;
let saidAt = 0;

/** Says something to screen readers, but not more often than they can read. */
function say(text, { always = false } = {}) {
  const now = performance.now();
  if (!always && now - saidAt < SAID_EVERY) return;
  saidAt = now;
  $("announcer").textContent = text;
}

function show(name) {
  $("state").textContent = STATES[name];
  $("state").dataset.state = COLOURS[name];
}

function warn(text) {
  $("warning").textContent = text ?? "";
  $("warning").hidden = text === null;
}

// --- the feed

feed.addEventListener("state", ({ detail: name }) => {
  if (name === "live" && $("state").dataset.state === COLOURS.waiting) say(t("Connected again."), { always: true });
  if (name === "offline") say(t("You are offline."), { always: true });
  show(name);
});
feed.addEventListener("event", ({ detail: event }) => {
  const told = log.take(event);
  if (told?.kind === "failed") say(t("A stream failed: {reason}.", { reason: told.reason }));
  if (told?.kind === "matched") say(t("The rule {rule} matched.", { rule: told.rule }));
  if (told?.kind === "upstream") say(t("The upstream {name} is {state}.", { name: told.name, state: UPSTREAMS[told.state] ?? told.state }), { always: true });
  if (told?.kind === "reset" && told.lost) warn(t("This page was too slow and missed {count} events. What runs is shown again.", { count: told.lost }));
  draw();
});
feed.addEventListener("refused", ({ detail: { status, message } }) => {
  show("failed");
  if (status === 401) {
    $("key-form").hidden = false;
    $("key-why").textContent = message;
    $("key").focus();
  } else {
    warn(message);
  }
});
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  if (!key) return;
  $("key").value = "";
  $("key-form").hidden = true;
  useKey(key);
  await ready();
  $("main").focus();
  feed.open();
});
addEventListener("online", () => feed.open());
addEventListener("offline", () => show("offline"));
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? t("Go on") : t("Pause");
  if (paused) {
    feed.close();
    show("paused");
  } else {
    feed.open();
  }
});

// --- drawing

function draw() {
  drawing ??= setTimeout(() => requestAnimationFrame(() => {
    drawing = null;
    drawNow();
  }), DRAWN_EVERY);
}

function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function drawNow() {
  const { rates } = log;
  put("n-open", rates ? String(openStreams()) : "–");
  put("n-tokens", rates ? short(rates.tokens) : "–");
  put("n-started", rates ? short(rates.started) : "–");
  put("n-failed", String(log.failed()));
  bars($("p-tokens"), log.tokens, t("Tokens per second"));
  times($("p-first"), log.firstTokens, t("Time to the first token"));
  times($("p-between"), log.between, t("Time between tokens"));
  drawUpstreams();
  const hasOwners = [...log.open.values(), ...log.ended].some(({ owner }) => owner !== null);
  document.body.classList.toggle("owners", hasOwners);
  drawOpen();
  rows($("ended"), log.ended, (end) => [
    clock(end.at), endOf(end), end.model ?? "–", owner(end), number(String(end.tokens)),
    number(end.firstToken === null ? "–" : time(end.firstToken)), number(time(end.duration)), opener(end.id),
  ]);
  $("ended-none").hidden = log.ended.length > 0;
  rows($("matched"), log.matched, (match) => [
    clock(match.at), match.rule, ACTIONS[match.action] ?? match.action, PARTS[match.part] ?? match.part, opener(match.id),
  ]);
  $("matched-section").hidden = log.matched.length === 0;
}

/** Returns how many streams run. The gateway names no more than these to a page that comes later. */
function openStreams() {
  return log.open.size < MOST_NAMED ? log.open.size : Math.max(log.open.size, log.rates?.open ?? 0);
}

function drawOpen() {
  const open = [...log.open.values()].reverse();
  const now = Date.now();
  rows($("open"), open.slice(0, MOST_OPEN), (stream) => [
    stream.model, owner(stream), number(stream.firstToken === null ? t("waits") : time(stream.firstToken)),
    number(time(Math.max(0, Math.floor((now - stream.created) / 1000) * 1000))), opener(stream.id),
  ], (stream) => `${stream.firstToken} ${Math.floor((now - stream.created) / 1000)}`);
  $("open-none").hidden = open.length > 0;
  const more = openStreams() - Math.min(open.length, MOST_OPEN);
  $("open-more").hidden = more <= 0;
  put("open-more", t("And {count} more.", { count: Math.max(more, 0) }));
}

function drawUpstreams() {
  $("upstreams-section").hidden = log.upstreams.size === 0;
  const names = [...log.upstreams.keys()].sort();
  const shown = names.map((name) => `${name} ${log.upstreams.get(name)}`).join("\n");
  if ($("upstreams").dataset.shown === shown) return;
  $("upstreams").dataset.shown = shown;
  $("upstreams").replaceChildren(...names.map((name) => {
    const state = log.upstreams.get(name);
    return element("li", { "data-state": state }, element("span", { className: "name", textContent: name }), element("span", { className: "health", textContent: UPSTREAMS[state] ?? state }));
  }));
}

/** Shows a row per item. Rows that are the same stay, so that the focus does. */
function rows(body, items, cells, version = () => "") {
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const wanted = items.map((item) => {
    const key = String(item.key ?? item.id);
    const row = known.get(key) ?? element("tr", { "data-key": key });
    known.delete(key);
    const now = version(item);
    if (row.dataset.version !== now) {
      row.dataset.version = now;
      const made = cells(item);
      for (const [at, cell] of made.entries()) {
        const old = row.children[at];
        const text = typeof cell === "string" ? cell : cell.textContent;
        if (old && old.textContent === text) continue;
        const fresh = typeof cell === "string" || cell.tagName !== "TD" ? element("td", {}, cell) : cell;
        if (old) old.replaceWith(fresh);
        else row.append(fresh);
      }
    }
    return row;
  });
  for (const row of known.values()) row.remove();
  for (const [at, row] of wanted.entries()) if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null);
  while (body.children.length > wanted.length) body.lastElementChild.remove();
}

function number(text) {
  return element("td", { className: "number", textContent: text });
}

function owner({ owner }) {
  return element("td", { className: "owner", textContent: owner ?? "–" });
}

function clock(at) {
  return new Date(at).toLocaleTimeString(document.documentElement.lang, { hour12: false });
}

function endOf({ status, reason }) {
  const text = reason ? `${ENDS[status] ?? status}: ${ENDS[reason] ?? reason}` : ENDS[status] ?? status;
  return element("td", {}, element("span", { className: "end", "data-state": status, textContent: text }));
}

/** Returns a button that opens a stream in the chat, if the key may read it. */
function opener(id) {
  const button = element("button", { type: "button", className: "quiet", textContent: t("Open"), "aria-label": t("Open the stream {id}", { id }) });
  button.addEventListener("click", async () => {
    const response = await fetch(`/v1/streams/${id}`, { method: "HEAD", headers: headers() }).catch(() => null);
    if (response?.ok) {
      location.href = `/#${id}`;
      return;
    }
    const why = response?.status === 404 ? t("This stream is another owner's, or it is not kept any more.") : t("The stream cannot be opened now.");
    warn(why);
    $("warning").scrollIntoView({ block: "nearest" });
  });
  return element("td", {}, button);
}

switchTheme($("theme"), (theme) => kept.set("theme", theme));
addEventListener("resize", draw);
setInterval(draw, 1000);
drawNow();
await ready();
feed.open();
