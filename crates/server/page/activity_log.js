/** What the page knows: open streams, ends, matches and rates, all bounded. */

/** How far back the plots go, in milliseconds. */
export const SPAN = 300_000;
/** Most ends and matches that are listed. */
const MOST_LISTED = 100;
/** Most points of a plot. */
const MOST_POINTS = 2000;

export class ActivityLog {
  /** By id: `{ id, model, owner, created, firstToken }`, the oldest first. */
  open = new Map();
  /** Ends and matches so far: each has its number as `key`, since one rule may match twice at one time. */
  #listed = 0;
  /** The newest first. */
  ended = [];
  matched = [];
  /** By name: the state. */
  upstreams = new Map();
  /** `{ at, value }`, the oldest first. */
  tokens = [];
  firstTokens = [];
  /** `{ at, value, upper }` */
  between = [];
  failures = [];
  /** The last rates, per second. */
  rates = null;

  /** Takes an event. Returns what to say about it, or null: `{ kind, … }`. */
  take(event, now = Date.now()) {
    const id = event.response_id;
    switch (event.type) {
      case "tokenwire:reset":
        // What ended meanwhile is not known; what runs follows.
        this.open.clear();
        return { kind: "reset", lost: event.lost };
      case "tokenwire:stream.started":
        this.open.set(id, { id, model: event.model, owner: event.owner ?? null, created: event.created_at * 1000, firstToken: null });
        return null;
      case "tokenwire:stream.first_token": {
        const stream = this.open.get(id);
        if (stream && stream.firstToken === null) {
          stream.firstToken = event.first_token_ms;
          push(this.firstTokens, { at: now, value: event.first_token_ms });
        }
        return null;
      }
      case "tokenwire:stream.ended": {
        const stream = this.open.get(id);
        this.open.delete(id);
        const { status, reason, tokens, first_token_ms: firstToken, duration_ms: duration, owner = null } = event;
        this.ended.unshift({ key: ++this.#listed, id, at: now, status, reason, tokens, firstToken, duration, owner, model: stream?.model ?? null, upstream: event.upstream ?? null });
        this.ended.length = Math.min(this.ended.length, MOST_LISTED);
        const { p50, p95 } = event.between_tokens_ms ?? {};
        if (p50) push(this.between, { at: now, value: p50, upper: p95 ?? p50 });
        if (status !== "failed") return null;
        push(this.failures, { at: now });
        return { kind: "failed", reason };
      }
      case "tokenwire:stream.matched":
        this.matched.unshift({ key: ++this.#listed, id, at: now, rule: event.rule, action: event.action, part: event.part });
        this.matched.length = Math.min(this.matched.length, MOST_LISTED);
        return { kind: "matched", rule: event.rule };
      case "tokenwire:upstream.changed": {
        const known = this.upstreams.get(event.upstream);
        this.upstreams.set(event.upstream, event.state);
        return known && known !== event.state ? { kind: "upstream", name: event.upstream, state: event.state } : null;
      }
      case "tokenwire:rates": {
        const seconds = Math.max(event.interval_ms, 1) / 1000;
        this.rates = { open: event.open, tokens: event.tokens / seconds, started: event.started / seconds };
        push(this.tokens, { at: now, value: this.rates.tokens });
        return null;
      }
      default:
        return null;
    }
  }

  /** Returns how many streams have failed within the span. */
  failed(now = Date.now()) {
    return this.failures.filter(({ at }) => at > now - SPAN).length;
  }
}

function push(points, point) {
  points.push(point);
  const first = points.findIndex(({ at }) => at > point.at - SPAN);
  const surplus = Math.max(first, points.length - MOST_POINTS);
  if (surplus > 0) points.splice(0, surplus);
}
