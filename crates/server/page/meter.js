/** The panel that shows the state of the connection. */
import { t } from "./words.js";

const SPAN = 15_000;
const BIN = 250;
const BINS = SPAN / BIN;
/** A gateway that goes on with the stream of another process numbers from the next multiple of this on. */
const EPOCH = 2 ** 24;
/** Numbers that the last event may skip. */
const SKIPS = 2;
const NAMES = { ws: "WebSocket", sse: "fetch", eventsource: "EventSource" };
const STATES = {
  connecting: t("Connecting"), queued: t("Queued"), streaming: t("Streaming"), waiting: t("Reconnecting"), offline: t("Offline"), done: t("Complete"),
  failed: t("Failed"), aborted: t("Stopped"), closed: t("Closed"), idle: t("Idle"),
};

export class Meter {
  #parts;
  #stream = null;
  /** The id of an answer that is shown and not read. */
  #id = null;
  #undo = [];
  #frame = null;
  #asked = 0;
  #isStart = false;
  #firstToken = null;
  #lastToken = null;
  #tokens = 0;
  #events = 0;
  #lastEvent = null;
  #missing = 0;
  #wasReset = false;
  #marks = [];

  /** `parts` are the elements by the value that they show. */
  constructor(parts) {
    this.#parts = parts;
  }

  /** Follows a stream. `asked` means that it was started just now, so the time to its first token is known. */
  follow(stream, { asked }) {
    this.clear();
    this.#stream = stream;
    this.#asked = performance.now();
    this.#isStart = asked;
    const on = (type, act) => this.#undo.push(stream.on(type, act));
    const token = () => {
      this.#firstToken ??= performance.now();
      this.#lastToken = performance.now();
      this.#tokens += 1;
      this.#marks.push({ at: this.#lastToken, isBreak: false });
    };
    on("delta", token);
    on("reasoning", token);
    on("event", (event) => {
      this.#events += 1;
      this.#missing += missing(this.#lastEvent, event);
      this.#lastEvent = event.sequence_number;
      this.#wasReset ||= event.type === "tokenwire:reset";
      this.#schedule();
    });
    on("status", ({ state }) => {
      if (state === "waiting" || state === "offline") this.#marks.push({ at: performance.now(), isBreak: true });
      this.#schedule();
    });
    this.#schedule();
  }

  /** Shows no stream. `id` names the answer on the page, if it is complete. */
  clear(id = null) {
    this.#id = id;
    for (const undo of this.#undo) undo();
    this.#undo = [];
    this.#stream = null;
    this.#firstToken = this.#lastToken = this.#lastEvent = null;
    this.#tokens = this.#events = this.#missing = 0;
    this.#wasReset = false;
    this.#marks = [];
    this.#schedule();
  }

  #schedule() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#draw();
      if (this.#isLive()) setTimeout(() => this.#schedule(), 200);
    });
  }

  #isLive() {
    return this.#stream !== null && ["connecting", "queued", "streaming", "waiting", "offline"].includes(this.#stream.state);
  }

  #draw() {
    const stream = this.#stream;
    const { state, transport, last, first, rate, reconnects, events, id, cut, share } = this.#parts;
    const show = (part, text) => { if (part.textContent !== text) part.textContent = text; };
    const name = stream?.state === "done" && stream.stopped ? "aborted" : stream?.state ?? "idle";
    state.dataset.state = name;
    show(state, STATES[name]);
    show(transport, NAMES[stream?.transport] ?? "–");
    show(last, stream && stream.lastSequence >= 0 ? String(stream.lastSequence) : "–");
    show(first, this.#isStart && this.#firstToken !== null ? time(this.#firstToken - this.#asked) : "–");
    show(rate, this.#rate());
    show(reconnects, String(stream?.reconnects ?? 0));
    show(events, this.#count());
    show(id, stream?.id ?? this.#id ?? "–");
    cut.disabled = !stream || !["connecting", "streaming"].includes(stream.state);
    share.disabled = !(stream?.id ?? this.#id);
    this.#trace();
  }

  /** Returns tokens per second: over the last seconds while it streams, over the whole afterwards. */
  #rate() {
    if (this.#tokens < 2) return "–";
    const now = performance.now();
    const live = this.#isLive();
    const from = live ? Math.max(this.#firstToken, now - 3000) : this.#firstToken;
    const until = live ? now : this.#lastToken;
    const count = live ? this.#marks.filter(({ at, isBreak }) => !isBreak && at >= from).length : this.#tokens - 1;
    return until - from < 50 ? "–" : (count / ((until - from) / 1000)).toFixed(count > 99 ? 0 : 1);
  }

  #count() {
    if (this.#lastEvent === null) return "–";
    if (this.#wasReset) return t("{count}, after a reset", { count: this.#events });
    if (this.#missing === 0) return t("{count}, none missing", { count: this.#events });
    return t("{count}, {missing} missing", { count: this.#events, missing: this.#missing });
  }

  #trace() {
    const now = performance.now();
    const until = this.#isLive() ? now : this.#marks.at(-1)?.at ?? now;
    this.#marks = this.#marks.filter(({ at }) => at > until - SPAN);
    const bins = Array.from({ length: BINS }, () => ({ count: 0, isBreak: false }));
    for (const { at, isBreak } of this.#marks) {
      const bin = bins[Math.min(BINS - 1, Math.floor((at - (until - SPAN)) / BIN))];
      if (isBreak) bin.isBreak = true;
      else bin.count += 1;
    }
    const most = Math.max(4, ...bins.map(({ count }) => count));
    const width = 240 / BINS;
    const bars = bins.flatMap(({ count, isBreak }, at) => {
      const made = [];
      if (count > 0) made.push(bar(at * width, (count / most) * 44, width - 1, null));
      if (isBreak) made.push(bar(at * width, 48, width - 1, "break"));
      return made;
    });
    this.#parts.trace.replaceChildren(...bars);
  }
}

/** Returns how many events are missing between the number `last` and this event. */
function missing(last, { sequence_number: number, type }) {
  const isFirst = last === null || Math.floor(number / EPOCH) > Math.floor(last / EPOCH);
  if (isFirst || type === "tokenwire:reset") return 0;
  const between = number - last - 1;
  return /^response\.(completed|incomplete|failed)$/.test(type) && between <= SKIPS ? 0 : between;
}

function bar(x, height, width, name) {
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [key, value] of Object.entries({ x, y: 48 - height, width, height, rx: 1 })) rect.setAttribute(key, value.toFixed(1));
  if (name) rect.setAttribute("class", name);
  return rect;
}

function time(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
