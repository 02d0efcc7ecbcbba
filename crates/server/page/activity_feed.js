/** Reads `/v1/activity` with fetch, which can send a key, and comes back after the last event when the connection ends. */
import { headers } from "./key.js";

/** Pauses before the next attempts, in milliseconds. */
const PAUSES = [0, 500, 1000, 2000, 5000];
/** A connection without bytes for this long is given up: rates come each second. */
const SILENCE = 20_000;

export class ActivityFeed extends EventTarget {
  #last = null;
  #attempts = 0;
  /** Whether this connection has brought an event. A gateway without room ends it before one. */
  #isLive = false;
  #abort = null;
  #timer = null;

  /** Begins to read, or reads on at once. */
  open() {
    this.close();
    this.#read();
  }

  close() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  async #read() {
    const abort = new AbortController();
    this.#abort = abort;
    this.#isLive = false;
    if (!navigator.onLine) this.#tell("state", "offline");
    else this.#tell("state", this.#attempts === 0 ? "connecting" : "waiting");
    let silence = null;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), SILENCE);
    };
    try {
      alive();
      const response = await fetch("/v1/activity", {
        headers: { Accept: "text/event-stream", ...(this.#last ? { "Last-Event-ID": this.#last } : {}), ...headers() },
        signal: abort.signal, cache: "no-store",
      });
      if (!response.ok) {
        const error = await response.json().then(({ error }) => error, () => null);
        if ([401, 403].includes(response.status)) {
          this.#tell("refused", { status: response.status, message: error?.message ?? "" });
          return;
        }
        throw new Error(`status ${response.status}`);
      }
      await this.#events(response.body, alive);
    } catch {
      // The pause below, and the next attempt.
    } finally {
      clearTimeout(silence);
    }
    if (this.#abort !== abort) return;
    this.#tell("state", navigator.onLine ? "waiting" : "offline");
    this.#attempts += 1;
    const pause = PAUSES[Math.min(this.#attempts, PAUSES.length - 1)];
    this.#timer = setTimeout(() => this.#read(), pause * (0.75 + Math.random() / 2));
  }

  async #events(body, alive) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      alive();
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) this.#event(block);
    }
  }

  #event(block) {
    for (const line of block.split("\n")) {
      if (line.startsWith("id: ")) this.#last = line.slice(4);
      else if (line.startsWith("data: ")) {
        if (!this.#isLive) this.#tell("state", "live");
        this.#isLive = true;
        this.#attempts = 0;
        this.#tell("event", JSON.parse(line.slice(6)));
      }
    }
  }
}
