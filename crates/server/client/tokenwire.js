/**
 * tokenwire.js: reads token streams of a Tokenwire gateway, in browsers and in Node.
 *
 * A stream is a numbered log on the gateway. This module applies each event once, by its number. When a connection breaks it
 * resumes after the last number, over any transport that works: no token is lost, repeated or out of order. A start that is sent
 * again carries the same idempotency key, so nothing is billed twice.
 *
 * No dependencies. The types are in tokenwire.d.ts.
 */

const TERMINAL = new Set(["response.completed", "response.incomplete", "response.failed"]);
const ENDED = new Set(["completed", "incomplete", "failed", "cancelled"]);
/** Close codes after which a reconnect would fail again: the client's own message was invalid. */
const FINAL_CLOSE = new Map([
  [1002, "it found a protocol error"],
  [1003, "it does not accept this kind of data"],
  [1007, "it was sent text that is not UTF-8"],
  [1008, "its policy forbids the message"],
  [1009, "the message is too large"],
]);
const CREDENTIAL_REFUSED = 4401;
/** Most events that wait for an iterator. Beyond it the connection is dropped until the iterator has caught up; the gateway keeps them. */
const BACKLOG = 4096;
/** Time for which "auto" does not try a blocked WebSocket again, in milliseconds. */
const BLOCKED_FOR = 5 * 60_000;
/** Time that an aborted stream waits for the id that it has to cancel, in milliseconds. */
const ORPHAN_PATIENCE = 10_000;
/** A jump of the clock by this much means that the machine slept, in milliseconds. */
const SLEPT = 15_000;
/** Tickets in a row that the gateway refuses, before a stream gives up. */
const MOST_REFUSALS = 3;
/** Pause between retries while the system reports that it is offline, in milliseconds. The gateway may be on this machine. */
const OFFLINE_RETRY = 30_000;
/** Time for which a connection without an event must be open to count as restored, in milliseconds. */
const SETTLED = 300;

/** A gateway that takes a log over from another process goes on at the next multiple of this number. */
const EPOCH = 2 ** 24;
/** Numbers that a terminal event may skip: those of the finish and usage chunks of the chat dialect. */
const TERMINAL_SKIPS = 2;
/** The number of the last event of a stream whose node was lost. */
const LOST_NUMBER = 2 ** 31 - 1;

/** Connections that browsers open to one origin over HTTP/1.1, over all tabs. Further requests are queued without a sign. */
const HTTP1_CONNECTIONS = 6;

const DEFAULTS = {
  transport: "auto",
  cancelOnAbort: true,
  retries: 20,
  retryBase: 500,
  retryCap: 15_000,
  stallTimeout: 45_000,
  openTimeout: 8_000,
};

/** Base URLs where WebSockets were blocked, with the time until which they are not tried. */
const blocked = new Map();
/** Number of event streams that this page holds open, by base URL. */
const held = new Map();
/** Streams to notify when the machine wakes up or is online again. */
const awake = new Set();

// === Errors ===

/** A failure, with a message for users and a code for programs. */
export class TokenwireError extends Error {
  constructor(message, { code = null, status = null, type = null, param = null, retryable = false, retryAfter = null, responseId = null, requestId = null, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "TokenwireError";
    this.code = code;
    this.status = status;
    this.type = type;
    this.param = param;
    this.retryable = retryable;
    /** Milliseconds, if the gateway named a time. */
    this.retryAfter = retryAfter;
    this.responseId = responseId;
    this.requestId = requestId;
  }

  /** One or two sentences for the user. */
  get explanation() {
    return EXPLANATIONS.get(this.code) ?? EXPLANATIONS.get(this.status) ?? this.message;
  }
}

const UNREADABLE = "The model server sent an answer that the gateway cannot read. Try again; if it comes back, tell the operator.";
const NO_MODEL = "This model is not available here. Choose another model.";
const EXPLANATIONS = new Map([
  ["connection_lost", "The connection was lost and could not be restored. Check your network, and that the gateway is running."],
  ["connection_queued", "The browser opens six HTTP/1.1 connections to a gateway, over all tabs, and all are in use. This answer waits for one. Close other tabs, or use the transport \"ws\"."],
  ["come_back", "The gateway is busy or restarting. Try again in a moment."],
  ["unreachable", "The gateway cannot be reached. Check your network, and that the gateway is running."],
  ["not_found", "This answer is not kept any more, or it never existed."],
  ["producer_lost", "The gateway was restarted in the middle of this answer. What had arrived is kept. Let the model continue it, or ask again."],
  ["stream_lost", "The gateway has not kept this answer: it was restarted, or the answer was deleted. What had arrived is kept. Let the model continue it, or ask again."],
  ["upstream_unreachable", "The gateway is up, but the model server behind it cannot be reached. Try again, or ask its operator."],
  ["upstream_auth", "The model server refused the gateway's key. The gateway's operator has to correct it."],
  ["upstream_truncated", "The model server broke off in the middle of the answer. The part before it is shown; ask again for a complete one."],
  ["upstream_disconnected", "The model server closed the connection before it answered. Try again."],
  ["connect_timeout", "The model server did not accept the connection in time. Try again."],
  ["first_token_timeout", "The model did not start to answer in time. Try again, or choose another model."],
  ["between_tokens_timeout", "The model stopped in the middle of the answer. Try again."],
  ["total_timeout", "The answer took longer than the gateway allows. Ask for less."],
  ["rate_limit_exceeded", "Too many requests for this model. Wait a moment and try again."],
  ["overloaded", "The gateway is busy. Try again in a moment."],
  ["shutting_down", "The gateway is restarting. Try again in a moment."],
  ["invalid_api_key", "The gateway requires a valid key."],
  ["invalid_ticket", "The permission for this answer has ended. Reload the page."],
  ["ticket_not_allowed", "This page may not do that. Reload the page, or ask its operator."],
  ["origin_forbidden", "The gateway does not accept requests from this page. Add its origin to server.allowed_origins."],
  ["upstream_malformed", UNREADABLE],
  ["upstream_invalid_utf8", UNREADABLE],
  ["upstream_event_too_large", UNREADABLE],
  ["upstream_error", "The model server failed. Its own message is below. Try again, or choose another model."],
  ["upstream_busy", "The model server is busy. Wait a moment and try again."],
  ["model_not_found", NO_MODEL],
  ["model_not_allowed", NO_MODEL],
  ["stream_too_large", "The answer is longer than the gateway keeps. Ask for less at once."],
  ["body_too_large", "The question is larger than the gateway accepts. Send less."],
  ["context_length_exceeded", "The conversation is longer than the model can read. Start a new one, or ask for less."],
  ["store_unavailable", "The gateway cannot read or write its store. Try again in a moment, and tell its operator if it stays so."],
  ["internal_error", "The gateway failed. Try again; if it comes back, tell its operator the request id."],
  ["previous_response_not_found", "The gateway has not kept the conversation. Start a new one."],
  ["cancelled", "The answer was stopped."],
  [429, "Too many requests. Wait a moment and try again."],
]);

function lost(message, details = {}) {
  return new TokenwireError(message, { code: "connection_lost", retryable: true, ...details });
}

function ofWire(error, status, details = {}) {
  return new TokenwireError(error?.message ?? `The gateway answered with status ${status}.`, {
    code: error?.code ?? null,
    type: error?.type ?? null,
    param: error?.param ?? null,
    status,
    retryable: error?.retryable ?? isRetryable(status),
    ...details,
  });
}

/** Returns whether events are missing between the number `last` and this event. */
function leavesGap(last, number, type) {
  const skips = TERMINAL.has(type) ? TERMINAL_SKIPS : 0;
  if (number - last - 1 <= skips) return false;
  // The first event of a later epoch follows whatever the earlier one ended with. A lost node's last event has no epoch.
  const isFirst = number >= EPOCH && number % EPOCH <= skips;
  return !isFirst && number !== LOST_NUMBER;
}

function isRetryable(status) {
  return [408, 425, 429, 500, 502, 503, 504].includes(status);
}

async function ofAnswer(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // Not JSON, such as a proxy's error page. The status is used alone.
  }
  const should = response.headers.get("x-should-retry");
  const seconds = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return ofWire(error, response.status, {
    retryable: should === null ? isRetryable(response.status) : should === "true",
    retryAfter: Number.isFinite(seconds) ? Math.max(0, seconds * 1000) : null,
    requestId: response.headers.get("x-request-id"),
  });
}

// === Server-Sent Events, after WHATWG HTML 9.2.6 ===

/** Parses an event stream from bytes that may be split anywhere. Lines end with LF, CR or CRLF. */
export class SseParser {
  #decoder = new TextDecoder();
  #line = "";
  #afterCr = false;
  #data = [];
  #event = "";
  #id = "";
  #retry = null;

  /** The pause before a reconnect that the stream names, in milliseconds; null if it names none. */
  get retry() { return this.#retry; }

  /** Returns the messages that these bytes complete. */
  push(bytes) {
    const messages = [];
    const text = this.#decoder.decode(bytes, { stream: true });
    let start = 0;
    for (let at = 0; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      if (code !== 10 && code !== 13) {
        this.#afterCr = false;
        continue;
      }
      if (code === 10 && this.#afterCr) {
        this.#afterCr = false;
      } else {
        this.#take(this.#line + text.slice(start, at), messages);
        this.#line = "";
        this.#afterCr = code === 13;
      }
      start = at + 1;
    }
    this.#line += text.slice(start);
    return messages;
  }

  #take(line, messages) {
    if (line === "") {
      if (this.#data.length > 0) {
        messages.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.#id });
      }
      this.#data = [];
      this.#event = "";
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.#retry = Number(value);
  }
}

// === Helpers ===

function now() {
  return performance.now();
}

/** 130 random bits. Lower case and digits only, so that no id begins like a credential. */
function randomId(length = 26) {
  const alphabet = "abcdefghijklmnopqrstuvwxyz234567";
  return Array.from(crypto.getRandomValues(new Uint8Array(length)), (byte) => alphabet[byte & 31]).join("");
}

/** Formats of API keys and tokens, such as `sk-…`, `whsec_…` or a JWT. */
const CREDENTIAL = /^(?:Bearer\s+)?(?:sk-[A-Za-z0-9_-]{8,}|tkt_[A-Za-z0-9_.-]{8,}|whsec_[A-Za-z0-9+/=]{8,}|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)$/i;

/** Returns whether a text is an API key or a token, which must not be used as a question or an idempotency key. */
export function looksLikeCredential(text) {
  return CREDENTIAL.test(String(text).trim());
}

function defaultBaseUrl() {
  // The gateway serves this module itself.
  if (import.meta.url?.startsWith("http")) return new URL(import.meta.url).origin;
  return globalThis.location?.origin?.startsWith("http") ? globalThis.location.origin : "http://localhost:3000";
}

/** Counts an event stream of this page as open. Returns a function that ends that. */
function hold(baseUrl) {
  held.set(baseUrl, (held.get(baseUrl) ?? 0) + 1);
  return () => held.set(baseUrl, held.get(baseUrl) - 1);
}

/**
 * Returns whether the browser queues a request that has no response yet. The connections of other tabs cannot be seen, but WebSockets
 * do not count to the limit: if one opens at once, the gateway answers and the request was not sent.
 */
async function isQueued({ baseUrl, WebSocket, openTimeout, getTicket }) {
  if (!globalThis.document || usesHttp2(baseUrl)) return false;
  if ((held.get(baseUrl) ?? 0) >= HTTP1_CONNECTIONS) return true;
  if (!WebSocket) return false;
  // A request for a ticket would be queued as well, and an upgrade without one that is answered shows as much.
  const protocols = getTicket ? ["tokenwire.v1", "tokenwire-ticket.none"] : ["tokenwire.v1"];
  return new Promise((resolve) => {
    const probe = new WebSocket(socketUrl(baseUrl), protocols);
    const end = (opens) => { clearTimeout(timer); resolve(opens); probe.close(); };
    const timer = setTimeout(() => end(false), openTimeout);
    probe.onopen = () => end(true);
    probe.onclose = () => end(false);
  });
}

/** Returns whether a response of the gateway came over HTTP/2 or 3, which carry many streams on one connection. */
function usesHttp2(baseUrl) {
  const entries = globalThis.performance?.getEntriesByType?.("resource") ?? [];
  return entries.some(({ name, nextHopProtocol }) => name.startsWith(`${baseUrl}/`) && /^h[23]/.test(nextHopProtocol ?? ""));
}

function isOffline() {
  return globalThis.navigator?.onLine === false;
}

/**
 * Returns a ticket of the page. `use` says what for: "socket" (a WebSocket), "stream" (the stream `id`) or "start" (one answer).
 * An error of the page is final if it has `retryable: false`; any other may be one of the network.
 */
async function ticketFor(getTicket, use, id = null) {
  let ticket;
  try {
    ticket = await getTicket({ use, id });
  } catch (cause) {
    if (cause instanceof TokenwireError) throw cause;
    throw new TokenwireError(`No ticket could be had: ${cause?.message ?? cause}`, { code: "no_ticket", retryable: cause?.retryable !== false, cause });
  }
  if (typeof ticket !== "string" || !/^[A-Za-z0-9_.-]+$/.test(ticket)) {
    throw new TokenwireError("getTicket returned no ticket.", { code: "no_ticket" });
  }
  return ticket;
}

function withTicket(path, ticket) {
  return `${path}${path.includes("?") ? "&" : "?"}ticket=${ticket}`;
}

function quietly(timer) {
  timer.unref?.();
  return timer;
}

/** Converts a chat message to an item of the Responses API, which every transport accepts. */
function itemOf(message) {
  if (!Array.isArray(message.content)) return message;
  const text = message.role === "assistant" ? "output_text" : "input_text";
  const content = message.content.map((part) => {
    if (part.type === "text") return { type: text, text: part.text };
    if (part.type === "image_url") return { type: "input_image", image_url: part.image_url?.url, detail: part.image_url?.detail ?? "auto" };
    return part;
  });
  return { ...message, content };
}

/** Returns the text of a response object: every output text and refusal, in order. */
function textOf(response) {
  const parts = (response?.output ?? []).flatMap((item) => (item.type === "message" ? item.content ?? [] : []));
  return parts.map((part) => part.text ?? part.refusal ?? "").join("");
}

function reasoningOf(response) {
  const items = (response?.output ?? []).filter((item) => item.type === "reasoning");
  return items.flatMap((item) => item.content ?? []).map((part) => part.text ?? "").join("");
}

function socketUrl(base) {
  const url = new URL(`${base}/v1/ws`);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** Calls `act` when the signal aborts, at once if it already has. Returns a function that stops following it. */
function follow(signal, act) {
  if (signal.aborted) {
    act();
    return () => {};
  }
  signal.addEventListener("abort", act, { once: true });
  return () => signal.removeEventListener("abort", act);
}

function onOnline() {
  for (const stream of [...awake]) stream._poke("online");
}

function onOffline() {
  for (const stream of [...awake]) stream._poke("offline");
}

function onVisible() {
  if (globalThis.document?.visibilityState === "visible") for (const stream of [...awake]) stream._poke("visible");
}

/** Listens to online and visibility events while there are streams. */
function listenTo(stream) {
  awake.add(stream);
  if (awake.size === 1) {
    globalThis.addEventListener?.("online", onOnline);
    globalThis.addEventListener?.("offline", onOffline);
    globalThis.document?.addEventListener("visibilitychange", onVisible);
  }
}

function forget(stream) {
  if (!awake.delete(stream) || awake.size > 0) return;
  globalThis.removeEventListener?.("online", onOnline);
  globalThis.removeEventListener?.("offline", onOffline);
  globalThis.document?.removeEventListener("visibilitychange", onVisible);
}

// === One stream ===

/** One answer, read to its end over any number of connections. */
export class TokenStream {
  #options;
  #request;
  #socket;
  #ownsSocket = false;
  #lane;
  #key;
  /** The route that the start was sent to. A key is valid for one route. */
  #route = null;
  #id;
  #last;
  #text = "";
  #reasoning = "";
  #state = "connecting";
  #via = null;
  #reconnects = 0;
  #applied = 0;
  #settled = false;
  #orphan = false;
  #cancelling = false;
  #unopened = 0;
  #probing = false;
  #avoidSocket = false;
  #asked = null;
  /** The ticket of a start. It is sent again with the same start: another one would start another answer. */
  #startTicket = null;
  /** Credentials that were refused, without an event in between. */
  #refusals = 0;
  #connection = null;
  /** Whether the current connection has its response. */
  #isAnswered = false;
  /** Whether the current connection shows every event, as all routes but `/v1/responses` do. */
  #showsAll = true;
  #heard = now();
  #sleeper = null;
  #listeners = new Map();
  #queue = [];
  #queueIsKept = true;
  #iterating = false;
  #waiter = null;
  #room = null;
  #error = null;
  #response = null;
  #promises = {};

  constructor(options, { request, id = null, after = null, socket = null }) {
    this.#options = options;
    this.#request = request;
    this.#id = id;
    this.#last = after ?? -1;
    this.#socket = socket;
    this.#lane = `s-${randomId(12)}`;
    this.#key = options.idempotencyKey ?? `tw-${randomId()}`;
    for (const name of ["response", "started"]) {
      const promise = {};
      promise.promise = new Promise((resolve, reject) => Object.assign(promise, { resolve, reject }));
      // A caller that does not await the promise must not get an unhandled rejection.
      promise.promise.catch(() => {});
      this.#promises[name] = promise;
    }
    if (id) this.#promises.started.resolve(id);
    this.#promises.final = this.#promises.response.promise.then(() => this.#text);
    this.#promises.final.catch(() => {});
    // In a microtask, so that listeners can be added first.
    queueMicrotask(() => this.#begin());
  }

  /** The response's id; null until the gateway has given it. */
  get id() { return this.#id; }
  /** The number of the last event that was applied; -1 before the first. */
  get lastSequence() { return this.#last; }
  /** The text so far. */
  get text() { return this.#text; }
  /** The reasoning so far, where the model shows it. */
  get reasoning() { return this.#reasoning; }
  /** connecting, streaming, waiting, offline, done, failed, aborted or closed. */
  get state() { return this.#state; }
  /** The transport of the current connection: "ws", "sse" or "eventsource". */
  get transport() { return this.#via; }
  /** Number of reconnects. */
  get reconnects() { return this.#reconnects; }
  /** The response object of the terminal event. Rejects if the answer failed, or was aborted or closed. */
  get response() { return this.#promises.response.promise; }
  /** The complete text. Rejects as `response` does. */
  get finalText() { return this.#promises.final; }
  /** The id, once it is known. */
  get started() { return this.#promises.started.promise; }

  /**
   * Adds a listener: "event" (each applied event), "delta" (text), "reasoning" (text), "reset" (the response object), "status",
   * "done" (the response object), "error". Returns a function that removes it.
   */
  on(type, listener) {
    if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
    this.#listeners.get(type).add(listener);
    return () => this.off(type, listener);
  }

  off(type, listener) {
    this.#listeners.get(type)?.delete(listener);
  }

  /** Stops the generation at its upstream. The stream then ends with a response of status "cancelled". */
  async cancel() {
    if (this.#settled) return this.response;
    this.#cancelling = true;
    await this.started;
    await this.#sendCancel();
    return this.response;
  }

  /** Stops reading and leaves the generation running: `attach` reads it again. */
  close() {
    this.#finish("closed", new TokenwireError("The stream was closed on this side.", { code: "closed", responseId: this.#id }));
  }

  /** Drops the connection, as a network failure would. The stream resumes by itself. */
  cut() {
    this.#break(lost("The connection was cut on purpose.", { code: "cut" }));
  }

  async *[Symbol.asyncIterator]() {
    if (this.#iterating || !this.#queueIsKept) {
      const why = this.#iterating ? "A stream can be iterated once." : `More than ${BACKLOG} events arrived before the iteration began.`;
      throw new TokenwireError(`${why} Use on("event", …), or attach to the id again.`, { code: "events_not_kept" });
    }
    this.#iterating = true;
    try {
      for (;;) {
        if (this.#queue.length > 0) {
          const event = this.#queue.shift();
          if (this.#room && this.#queue.length < BACKLOG / 2) this.#room();
          yield event;
        } else if (this.#settled) {
          if (this.#error && this.#state !== "closed") throw this.#error;
          return;
        } else {
          await new Promise((resolve) => { this.#waiter = resolve; });
        }
      }
    } finally {
      // Leaving the loop early aborts the stream.
      if (!this.#settled) this.#abort();
    }
  }

  // --- connecting and retrying

  #begin() {
    const { signal } = this.#options;
    if (signal) {
      const undo = follow(signal, () => this.#abort(signal.reason));
      this.response.then(undo, undo);
    }
    if (this.#settled) return;
    listenTo(this);
    this.#run().catch((error) => this.#finish("failed", error));
  }

  async #run() {
    let attempt = 0;
    for (;;) {
      const applied = this.#applied;
      const via = this.#pick();
      let error;
      try {
        await this.#connect(via);
        error = lost("The connection ended before the answer did.");
      } catch (caught) {
        error = caught;
      }
      if (this.#settled) return;
      if (error.status === 404 && this.#applied > 0) {
        throw new TokenwireError("The gateway does not have the rest of this stream.", { code: "stream_lost", status: 404, responseId: this.#id, cause: error });
      }
      if (this.#applied > applied) attempt = 0;
      if (error.code === "backlog_full") {
        this.#setState("streaming");
        if (this.#queue.length >= BACKLOG / 2) await new Promise((resolve) => { this.#room = resolve; });
        this.#room = null;
        continue;
      }
      this.#noteRefusal(error);
      const fallsBack = this.#fallsBack(via, error);
      if (!fallsBack && !(error instanceof TokenwireError && error.retryable)) throw error;
      attempt += 1;
      if (attempt > this.#options.retries) {
        throw new TokenwireError(`Gave up after ${this.#options.retries} attempts in a row: ${error.message}`, {
          code: error.code, status: error.status, retryable: true, responseId: this.#id, cause: error,
        });
      }
      if (fallsBack) continue;
      this.#reconnects += 1;
      const soon = ["cut", "woke", "eventsource_closed"].includes(error.code);
      if (soon) attempt = 0;
      await this.#sleep(soon ? Math.random() * 200 : this.#backoff(attempt, error), attempt, error);
    }
  }

  /** A ticket that has expired, such as during sleep, is replaced with the next attempt. */
  #noteRefusal(error) {
    if (!(error instanceof TokenwireError) || error.code !== "invalid_ticket" || !this.#options.getTicket) return;
    this.#startTicket = null;
    this.#refusals += 1;
    error.retryable = this.#refusals < MOST_REFUSALS;
  }

  #backoff(attempt, error) {
    const { retryBase, retryCap } = this.#options;
    // An event stream that only names a pause. It may be short: a gateway that is replaced sends its readers to the next process.
    if (error.code === "come_back") return Math.min(error.retryAfter, 60_000) * (1 + Math.random() / 10);
    const jittered = Math.random() * Math.min(retryCap, retryBase * 2 ** (attempt - 1));
    return Math.max(jittered, Math.min(error.retryAfter ?? 0, 60_000));
  }

  async #sleep(delay, attempt, error) {
    const offline = isOffline();
    if (offline) delay = OFFLINE_RETRY;
    this.#setState(offline ? "offline" : "waiting", { attempt, delay, error });
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, delay);
      this.#sleeper = () => { clearTimeout(timer); resolve(); };
    });
    this.#sleeper = null;
  }

  /**
   * Called when the machine is online again or the page is visible: ends a pause, and replaces a connection that may be dead.
   * "offline" only changes the state, since a gateway on this machine is still reachable.
   */
  _poke(why) {
    if (why === "offline") this.#setState("offline");
    else if (this.#sleeper) this.#sleeper();
    else if (this.#connection && (why === "online" || now() - this.#heard > SLEPT)) {
      this.#break(lost("The machine was offline or asleep; reconnecting.", { code: "woke" }));
    }
  }

  /** Drops the connection, for all lanes of the socket. */
  #break(error) {
    const socket = this.#via === "ws" ? this.#socket : null;
    this.#connection?.abort(error);
    socket?._drop(error);
  }

  #pick() {
    const { transport } = this.#options;
    if (this.#socket && !this.#ownsSocket) return "ws";
    if (transport === "eventsource") return this.#probing ? "sse" : "eventsource";
    if (transport !== "auto") return transport;
    // A start that may have reached one route must not be sent to another: its key is valid for one route.
    const startedElsewhere = this.#id === null && this.#route !== null && this.#route !== "responses";
    const isBlocked = (blocked.get(this.#options.baseUrl) ?? 0) > Date.now();
    return !this.#options.WebSocket || isBlocked || this.#avoidSocket || startedElsewhere ? "sse" : "ws";
  }

  /** Returns whether to try another transport at once. */
  #fallsBack(via, error) {
    const { transport } = this.#options;
    if (transport === "eventsource") {
      // EventSource does not report why it failed. One attempt with fetch does.
      // Where it was open before, its ticket may have ended: another one is tried first.
      const mayHaveExpired = this.#options.getTicket && this.#isAnswered;
      this.#probing = via === "eventsource" && error.code === "eventsource_closed" && !mayHaveExpired;
      return false;
    }
    if (transport !== "auto" || (this.#socket && !this.#ownsSocket)) return false;
    if (via === "sse") {
      this.#avoidSocket = false;
      return false;
    }
    if (["cut", "woke"].includes(error.code)) return false;
    const unopened = error.code === "websocket_unavailable";
    this.#unopened = unopened ? this.#unopened + 1 : 0;
    const beforeFirst = this.#applied === 0 && (unopened || ["connection_lost", "stalled"].includes(error.code));
    this.#avoidSocket = beforeFirst || this.#unopened >= 2;
    return this.#avoidSocket;
  }

  async #connect(via) {
    this.#via = via;
    const connection = new AbortController();
    this.#connection = connection;
    this.#isAnswered = false;
    this.#showsAll = true;
    this.#heard = now();
    if (!this.#settled) this.#setState("connecting");
    const undo = this.#watch(via, connection);
    try {
      if (via === "ws") await this.#overSocket(connection.signal);
      else if (via === "eventsource") await this.#overEventSource(connection.signal);
      else await this.#overFetch(connection.signal);
    } finally {
      undo();
      if (this.#connection === connection) this.#connection = null;
      // Ends whatever part of it is still open.
      connection.abort(lost("The connection is no longer needed."));
    }
  }

  /** Drops a connection that is silent for longer than the gateway's heartbeat, and any connection after the machine slept. */
  #watch(via, connection) {
    const { stallTimeout, openTimeout } = this.#options;
    const every = Math.max(50, Math.min(5000, stallTimeout / 4, openTimeout / 2));
    const began = now();
    let tick = began;
    let asked = false;
    // The gateway answers an event stream at once. A request without a response is queued by the browser, or lost.
    const look = async () => {
      asked = true;
      // Without proof the answer may be lost as well, so this is believed for a while only.
      const isSure = (held.get(this.#options.baseUrl) ?? 0) >= HTTP1_CONNECTIONS;
      const queued = (isSure || now() - began < 4 * stallTimeout) && (await isQueued(this.#options));
      if (connection.signal.aborted || this.#isAnswered || !queued) return;
      asked = false;
      this.#heard = now();
      if (this.#state !== "queued") this.#setState("queued", { error: new TokenwireError("The browser has no free connection to the gateway.", { code: "connection_queued" }) });
    };
    const timer = quietly(setInterval(() => {
      const slept = now() - tick > every + SLEPT;
      tick = now();
      if (slept) this.#break(lost("The machine slept; reconnecting.", { code: "woke" }));
      // A WebSocket is watched for all its lanes together. An EventSource does not show heartbeats.
      else if (via !== "ws" && !this.#isAnswered && !asked && now() - began > openTimeout) look();
      else if (via === "sse" && now() - this.#heard > stallTimeout) connection.abort(lost(`Nothing was received for ${stallTimeout} ms.`, { code: "stalled" }));
    }, every));
    return () => clearInterval(timer);
  }

  // --- over fetch

  async #headers(extra) {
    const given = this.#options.headers;
    const headers = new Headers(typeof given === "function" ? await given() : given ?? {});
    for (const [name, value] of Object.entries(extra)) headers.set(name, value);
    return headers;
  }

  /** Adds a ticket to a path, where there are no headers for a credential. */
  async #withTicket(path) {
    const { getTicket, headers } = this.#options;
    if (!getTicket || headers) return path;
    if (this.#id !== null) return withTicket(path, this.#startTicket ?? await ticketFor(getTicket, "stream", this.#id));
    this.#startTicket ??= await ticketFor(getTicket, "start");
    return withTicket(path, this.#startTicket);
  }

  async #fetch(bare, { signal, method = "GET", headers = {}, body, keepalive }) {
    const path = await this.#withTicket(bare);
    try {
      return await this.#options.fetch(`${this.#options.baseUrl}${path}`, {
        method, body, keepalive, signal,
        headers: await this.#headers(headers),
        cache: "no-store",
        ...(this.#options.credentials ? { credentials: this.#options.credentials } : {}),
      });
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw new TokenwireError(`The gateway at ${this.#options.baseUrl} cannot be reached.`, { code: "unreachable", retryable: true, cause: error });
    }
  }

  /** Returns the path and settings of a start or a resume. */
  #ask() {
    const accept = { Accept: "text/event-stream" };
    if (this.#id !== null) {
      const cursor = this.#last >= 0 ? { "Last-Event-ID": `${this.#id}.${this.#last}` } : {};
      return [`/v1/streams/${this.#id}`, { headers: { ...accept, ...cursor } }];
    }
    if (this.#route === "query") return [this.#queryPath(), { headers: accept }];
    const headers = { ...accept, "Content-Type": "application/json", "Idempotency-Key": this.#key };
    if (this.#route === "responses") return ["/v1/responses", { method: "POST", headers, body: JSON.stringify(this.#body()) }];
    this.#route = "streams";
    return ["/v1/streams", { method: "POST", headers, body: JSON.stringify(this.#request) }];
  }

  async #overFetch(signal) {
    const [path, init] = this.#ask();
    this.#showsAll = path !== "/v1/responses";
    // The watch bounds the wait for the head, as it bounds any silence.
    const response = await this.#fetch(path, { ...init, signal });
    this.#heard = now();
    this.#isAnswered = true;
    this.#locate(response);
    if (response.status === 204) return this.#catchUp(signal);
    if (!response.ok) throw await ofAnswer(response);
    if (this.#settled) return;
    const applied = this.#applied;
    const undoOpen = this.#openSoon();
    const parser = new SseParser();
    const reader = response.body.getReader();
    const release = hold(this.#options.baseUrl);
    const undo = follow(signal, () => reader.cancel(signal.reason).catch(() => {}));
    try {
      for (;;) {
        const { done, value } = await reader.read().catch((error) => { throw signal.aborted ? signal.reason : lost("The connection broke.", { cause: error }); });
        if (signal.aborted) throw signal.reason;
        if (done) throw lost("The connection ended before the answer did.", this.#applied > applied || parser.retry === null ? {} : { code: "come_back", retryAfter: parser.retry });
        this.#heard = now();
        for (const message of parser.push(value)) {
          if (message.data !== "[DONE]") this.#receive(this.#parse(message.data));
          if (this.#settled && !this.#orphan) return;
        }
      }
    } finally {
      undo();
      undoOpen();
      release();
      reader.cancel().catch(() => {});
    }
  }

  /**
   * Sets the state to streaming if the connection stays open: a busy gateway answers, names a pause and closes. Returns a function
   * that calls it off. An event sets the state as well.
   */
  #openSoon() {
    const timer = quietly(setTimeout(() => { if (!this.#settled && this.#state !== "streaming") this.#setState("streaming"); }, SETTLED));
    return () => clearTimeout(timer);
  }

  #parse(data) {
    try {
      return JSON.parse(data);
    } catch (cause) {
      throw lost("An event is not JSON.", { code: "malformed_event", cause });
    }
  }

  #locate(response) {
    const id = response.headers.get("location")?.match(/\/v1\/streams\/(resp_[A-Za-z0-9_-]+)/)?.[1];
    if (id && response.ok) this.#named(id);
  }

  /** The log has no further events, but its end was not seen: reads the response object instead. */
  async #catchUp(signal) {
    const response = await this.#fetch(`/v1/responses/${this.#id}`, { signal });
    if (!response.ok) throw await ofAnswer(response);
    const object = await response.json();
    this.#receive({ type: "tokenwire:reset", sequence_number: Math.max(this.#last, 0), response: object });
  }

  // --- over EventSource

  #queryPath() {
    const query = new URLSearchParams({ input: this.#request.input, key: this.#key });
    if (this.#request.model) query.set("model", this.#request.model);
    return `/v1/streams?${query}`;
  }

  /** A plain question fits into a GET. Other requests, and those with headers, are posted, and read under the id that is returned. */
  async #eventSourcePath(signal) {
    const isBare = this.#request && !this.#options.headers && typeof this.#request.input === "string" && Object.keys(this.#request).every((name) => ["input", "model"].includes(name));
    if (this.#id === null && isBare && this.#route !== "streams") {
      this.#route = "query";
      return this.#queryPath();
    }
    if (this.#id === null) {
      const [path, init] = this.#ask();
      const posted = new AbortController();
      const undo = follow(signal, () => posted.abort(signal.reason));
      try {
        const response = await this.#fetch(path, { ...init, signal: posted.signal });
        if (!response.ok) throw await ofAnswer(response);
        this.#locate(response);
        if (this.#id === null) throw new TokenwireError("The gateway did not name the stream that it started.", { code: "malformed_answer" });
      } finally {
        undo();
        posted.abort();
      }
    }
    return `/v1/streams/${this.#id}${this.#last >= 0 ? `?after=${this.#last}` : ""}`;
  }

  async #overEventSource(signal) {
    const { EventSource } = this.#options;
    if (!EventSource) throw new TokenwireError("There is no EventSource here. Use the transport \"sse\".", { code: "no_eventsource" });
    let path = await this.#eventSourcePath(signal);
    if (this.#settled && !this.#orphan) return;
    const { getTicket } = this.#options;
    if (getTicket && this.#id !== null) {
      path = withTicket(path, this.#startTicket ?? await ticketFor(getTicket, "stream", this.#id));
    } else if (getTicket) {
      this.#startTicket ??= await ticketFor(getTicket, "start");
      path = withTicket(path, this.#startTicket);
    }
    if (signal.aborted) throw signal.reason;
    await new Promise((resolve, reject) => {
      const source = new EventSource(`${this.#options.baseUrl}${path}`, { withCredentials: this.#options.credentials === "include" });
      let release = () => {};
      let undoOpen = () => {};
      const end = (act, value) => { undo(); undoOpen(); release(); release = () => {}; source.close(); act(value); };
      const undo = follow(signal, () => end(reject, signal.reason));
      source.onopen = () => {
        this.#heard = now();
        this.#isAnswered = true;
        release();
        release = hold(this.#options.baseUrl);
        undoOpen();
        undoOpen = this.#openSoon();
      };
      source.onmessage = ({ data }) => {
        this.#heard = now();
        try {
          if (data !== "[DONE]") this.#receive(this.#parse(data));
        } catch (error) {
          end(reject, error);
          return;
        }
        if (this.#settled && !this.#orphan) end(resolve);
      };
      source.onerror = () => {
        undoOpen();
        if (source.readyState === 2) {
          end(reject, lost("The browser gave up on the event stream.", { code: "eventsource_closed" }));
        } else if (!this.#settled) {
          // The browser reconnects by itself, with the last event's id.
          this.#reconnects += 1;
          this.#setState(isOffline() ? "offline" : "waiting", { attempt: 1, delay: 2000, error: lost("The connection was lost.") });
        }
      };
    });
  }

  // --- over a WebSocket

  /** Returns the body of a start. It is the same over a WebSocket and over POST, so that the key matches. */
  #body() {
    return { ...this.#request, stream: true, idempotency_key: this.#key };
  }

  async #overSocket(signal) {
    if (this.#socket) return this.#overLane(this.#socket, signal);
    const socket = new TokenwireSocket(this.#options);
    this.#socket = socket;
    this.#ownsSocket = true;
    try {
      return await this.#overLane(socket, signal);
    } finally {
      socket.close();
      this.#socket = null;
      this.#ownsSocket = false;
    }
  }

  async #overLane(socket, signal) {
    await socket._ready(signal);
    if (signal.aborted) throw signal.reason;
    await new Promise((resolve, reject) => {
      const end = (act, value) => { undo(); socket._leave(this.#lane, this.#id); act(value); };
      const undo = follow(signal, () => {
        if (!this.#ownsSocket && this.#id && !["done", "failed"].includes(this.#state)) socket._send({ type: "tokenwire:unsubscribe", response_id: this.#id });
        end(reject, signal.reason);
      });
      const take = (message) => {
        this.#heard = now();
        if (message.type === "error" || message.type === "tokenwire:error") {
          // A cancel that came too late is not an error of the stream.
          if (message.type === "tokenwire:error" && (this.#cancelling || this.#settled) && message.status === 404) return;
          const error = ofWire(message.error, message.status, { responseId: this.#id });
          // The log was removed while it was read. Resuming brings a reset.
          if (error.code === "position_gone") error.retryable = true;
          return end(reject, error);
        }
        if (message.type === "tokenwire:resumed") {
          if (!this.#settled) this.#setState("streaming");
          if (ENDED.has(message.status) && message.from > (message.head ?? -1)) this.#catchUp(signal).then(() => end(resolve), (error) => end(reject, error));
          return;
        }
        if (this.#state === "connecting") this.#setState("streaming");
        try {
          this.#receive(message);
        } catch (error) {
          return end(reject, error);
        }
        if (this.#settled && !this.#orphan) end(resolve);
      };
      socket._join(this.#lane, this.#id, { take, closed: (error) => end(reject, error) });
      if (this.#id === null) {
        this.#route = "responses";
        socket._send({ type: "response.create", ...this.#body(), stream_id: this.#lane });
      } else {
        const cursor = this.#last >= 0 ? { starting_after: this.#last } : {};
        socket._send({ type: "tokenwire:resume", response_id: this.#id, ...cursor, stream_id: this.#lane });
      }
    });
  }

  // --- events

  #named(id) {
    if (this.#id === null) {
      this.#id = id;
      this.#promises.started.resolve(id);
    }
    if (this.#orphan) {
      this.#orphan = false;
      this.#sendCancel().finally(() => this.#connection?.abort(lost("The stream was aborted.")));
    }
  }

  #receive(event) {
    if (event?.response?.id && this.#id === null) this.#named(event.response.id);
    if (this.#settled) return;
    const number = event?.sequence_number;
    if (!Number.isInteger(number)) return;
    const isReset = event.type === "tokenwire:reset";
    // Events that were applied before a reconnect are skipped.
    if (!isReset && number <= this.#last) return;
    if (!isReset && this.#showsAll && leavesGap(this.#last, number, event.type)) {
      throw lost(`Event ${number} followed event ${this.#last}: events are missing.`, { code: "events_missing", responseId: this.#id });
    }
    this.#last = number;
    this.#applied += 1;
    this.#refusals = 0;
    if (this.#applied === 1 && this.#via === "sse" && this.#avoidSocket) blocked.set(this.#options.baseUrl, Date.now() + BLOCKED_FOR);
    if (this.#state !== "streaming") this.#setState("streaming");
    if (isReset) {
      // A crash of the gateway may have lost the last words of a text that is already shown. The longer text stays.
      const [text, reasoning] = [textOf(event.response), reasoningOf(event.response)];
      const isLost = event.response?.error?.code === "producer_lost";
      if (!(isLost && this.#text.startsWith(text))) this.#text = text;
      if (!(isLost && this.#reasoning.startsWith(reasoning))) this.#reasoning = reasoning;
    } else if (event.type === "response.output_text.delta" || event.type === "response.refusal.delta") {
      this.#text += event.delta;
    } else if (event.type === "response.reasoning_text.delta") {
      this.#reasoning += event.delta;
    }
    const ended = TERMINAL.has(event.type) || (isReset && ENDED.has(event.response?.status));
    this.#enqueue(event, ended);
    this.#emit("event", event);
    if (isReset) this.#emit("reset", event.response);
    else if (event.type === "response.output_text.delta" || event.type === "response.refusal.delta") this.#emit("delta", event.delta, event);
    else if (event.type === "response.reasoning_text.delta") this.#emit("reasoning", event.delta, event);
    if (ended) this.#end(event.response);
  }

  #enqueue(event, ended) {
    if (!this.#queueIsKept) return;
    this.#queue.push(event);
    this.#waiter?.();
    this.#waiter = null;
    if (this.#queue.length < BACKLOG || ended) return;
    if (this.#iterating) {
      this.#connection?.abort(lost("The reader is too slow.", { code: "backlog_full" }));
    } else {
      this.#queueIsKept = false;
      this.#queue = [];
    }
  }

  #end(response) {
    this.#response = response;
    if (response?.status !== "failed") return this.#finish("done", null);
    const error = ofWire(response.error ?? { message: "The answer failed." }, null, { responseId: this.#id });
    return this.#finish("failed", error);
  }

  #finish(state, error) {
    if (this.#settled) return;
    this.#settled = true;
    this.#error = error;
    forget(this);
    if (this.#id === null && error) this.#promises.started.reject(error);
    if (error) this.#promises.response.reject(error);
    else this.#promises.response.resolve(this.#response);
    this.#setState(state, error ? { error } : {});
    this.#sleeper?.();
    this.#waiter?.();
    this.#room?.();
    if (!this.#orphan) this.#connection?.abort(error ?? lost("The answer is complete."));
    if (error) {
      if (state === "failed") this.#emit("error", error);
    } else {
      this.#emit("done", this.#response);
    }
  }

  #abort(reason) {
    if (this.#settled) return;
    const cancels = this.#options.cancelOnAbort;
    // A start without an id yet cannot be cancelled: the connection is kept until the id arrives.
    this.#orphan = cancels && this.#id === null && this.#route !== null && this.#connection !== null;
    if (this.#orphan) quietly(setTimeout(() => { this.#orphan = false; this.#connection?.abort(lost("The stream was aborted.")); }, ORPHAN_PATIENCE));
    if (cancels && this.#id !== null) this.#sendCancel().catch(() => {});
    const error = reason instanceof Error || reason instanceof DOMException ? reason : new DOMException("The stream was aborted.", "AbortError");
    this.#finish("aborted", error);
  }

  /** Cancels by POST, which does not depend on the stream's own connection and can be repeated. */
  async #sendCancel() {
    if (this.#asked) return this.#asked;
    this.#asked = (async () => {
      for (let attempt = 1; ; attempt += 1) {
        try {
          const response = await this.#fetch(`/v1/responses/${this.#id}/cancel`, { method: "POST", keepalive: true });
          if (response.ok || !isRetryable(response.status) || attempt >= 5) return;
        } catch (error) {
          if (attempt >= 5) throw error;
        }
        await new Promise((resolve) => setTimeout(resolve, this.#backoff(attempt, {})));
      }
    })();
    return this.#asked;
  }

  #setState(state, details = {}) {
    this.#state = state;
    this.#emit("status", {
      state, transport: this.#via, id: this.#id, lastSequence: this.#last, reconnects: this.#reconnects,
      attempt: 0, delay: 0, error: null, ...details,
    });
  }

  #emit(type, ...values) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(...values);
      } catch (error) {
        // An exception of a listener is reported; the stream continues.
        if (typeof globalThis.reportError === "function") globalThis.reportError(error);
        else console.error(error);
      }
    }
  }
}

// === One socket with many lanes ===

/** One WebSocket that carries many streams, each on its own lane. It is opened when a stream needs it, and reopened when it breaks. */
export class TokenwireSocket {
  #options;
  #webSocket = null;
  #opening = null;
  #lanes = new Map();
  #named = new Map();
  #heard = 0;
  #watch = null;
  #closed = false;

  constructor(options) {
    this.#options = options;
  }

  /** Whether the socket is open. */
  get connected() { return this.#webSocket?.readyState === 1; }
  /** Number of streams that use it. */
  get lanes() { return this.#lanes.size; }

  /** Starts a stream on a lane of this socket. */
  stream(options) {
    const [settings, request] = split(options, this.#options);
    return new TokenStream(settings, { request, socket: this });
  }

  /** Attaches to a running or finished stream. */
  attach(id, { after = null, ...options } = {}) {
    const [settings] = split(options, this.#options);
    return new TokenStream(settings, { request: null, id, after, socket: this });
  }

  /** Closes it for good. Its streams end as after `close()`; their generations continue. */
  close() {
    this.#closed = true;
    this.#gone(new TokenwireError("The socket was closed on this side.", { code: "closed" }), 1000);
  }

  async _ready(signal) {
    if (this.#closed) throw new TokenwireError("The socket was closed on this side.", { code: "closed" });
    this.#opening ??= this.#open();
    const opening = this.#opening;
    let undo = () => {};
    const aborted = new Promise((_, reject) => { undo = follow(signal, () => reject(signal.reason)); });
    try {
      await Promise.race([opening, aborted]);
    } finally {
      undo();
    }
  }

  async #open() {
    const { WebSocket, getTicket, baseUrl, openTimeout } = this.#options;
    let webSocket = null;
    try {
      if (!WebSocket) {
        throw new TokenwireError("There is no WebSocket here: pass one as the option `WebSocket`, or use the transport \"sse\".", { code: "websocket_unavailable" });
      }
      const protocols = ["tokenwire.v1"];
      if (getTicket) protocols.push(`tokenwire-ticket.${await ticketFor(getTicket, "socket")}`);
      webSocket = new WebSocket(socketUrl(baseUrl), protocols);
      this.#webSocket = webSocket;
      await new Promise((resolve, reject) => {
        const fail = (why) => reject(new TokenwireError(`A WebSocket to ${baseUrl} could not be opened: ${why}.`, { code: "websocket_unavailable", retryable: true }));
        const timer = quietly(setTimeout(() => { fail("no answer in time"); this.#abandon(webSocket); }, openTimeout));
        webSocket.onopen = () => {
          clearTimeout(timer);
          this.#heard = now();
          // Set here, since the close may be the next event.
          webSocket.onmessage = ({ data }) => this.#take(data);
          webSocket.onclose = ({ code, reason }) => { if (this.#webSocket === webSocket) this.#gone(this.#whyClosed(code, reason)); };
          this.#startWatch();
          resolve();
        };
        webSocket.onerror = () => {};
        webSocket.onclose = () => { clearTimeout(timer); fail("it was refused, or a proxy blocks it"); };
      });
      if (this.#webSocket !== webSocket) throw lost("The WebSocket was closed as soon as it was open.");
    } catch (error) {
      // If this attempt was abandoned, a later one may be open by now.
      if (this.#webSocket === webSocket) {
        this.#opening = null;
        this.#webSocket = null;
      }
      throw error;
    }
  }

  #whyClosed(code, reason) {
    const said = reason ? `: ${reason}` : "";
    if (FINAL_CLOSE.has(code)) {
      return new TokenwireError(`The gateway closed the WebSocket because ${FINAL_CLOSE.get(code)} (${code}${said}).`, { code: "websocket_closed", status: code });
    }
    if (code === CREDENTIAL_REFUSED) {
      return new TokenwireError(`The gateway requires a new credential${said}.`, { code: this.#options.getTicket ? "invalid_ticket" : "invalid_api_key", status: 401, retryable: Boolean(this.#options.getTicket) });
    }
    return lost(`The WebSocket was closed (${code}${said}).`, { status: code });
  }

  #take(data) {
    this.#heard = now();
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return this._drop(lost("A message is not JSON.", { code: "malformed_event" }));
    }
    if (message.type === "tokenwire:auth_expiring") {
      this.#renew();
      return undefined;
    }
    const lane = this.#lanes.get(message.stream_id) ?? this.#named.get(message.response_id);
    lane?.take(message);
    return undefined;
  }

  /** Prolongs the socket before its ticket ends. Where that fails the gateway closes it, and it is opened again. */
  async #renew() {
    const [webSocket, { getTicket }] = [this.#webSocket, this.#options];
    if (!getTicket) return;
    try {
      const ticket = await ticketFor(getTicket, "socket");
      if (this.#webSocket === webSocket) this._send({ type: "tokenwire:auth", ticket });
    } catch {
      // The close tells of it.
    }
  }

  /** Detects a dead socket. Browsers cannot send protocol pings and do not show received ones. */
  #startWatch() {
    clearInterval(this.#watch);
    const { stallTimeout } = this.#options;
    this.#watch = quietly(setInterval(() => {
      const silence = now() - this.#heard;
      if (silence > stallTimeout) this._drop(lost(`Nothing was received for ${stallTimeout} ms.`, { code: "stalled" }));
      else if (silence > stallTimeout / 2) this._send({ type: "tokenwire:ping" });
    }, Math.max(50, stallTimeout / 6)));
  }

  _join(name, id, lane) {
    this.#lanes.set(name, lane);
    if (id !== null) this.#named.set(id, lane);
  }

  _leave(name, id) {
    const lane = this.#lanes.get(name);
    this.#lanes.delete(name);
    if (lane && this.#named.get(id) === lane) this.#named.delete(id);
  }

  _send(message) {
    // A closing socket notifies its lanes by its close event.
    if (this.#webSocket?.readyState === 1) this.#webSocket.send(JSON.stringify(message));
  }

  /** Drops the connection without waiting for the peer's close. */
  _drop(error) {
    this.#gone(error, 3000);
  }

  #gone(error, code) {
    const webSocket = this.#webSocket;
    this.#webSocket = null;
    this.#opening = null;
    clearInterval(this.#watch);
    if (webSocket && code !== undefined) this.#abandon(webSocket, code);
    for (const lane of [...this.#lanes.values()]) lane.closed(error);
  }

  #abandon(webSocket, code = 1000) {
    webSocket.onmessage = null;
    webSocket.onclose = null;
    webSocket.onopen = null;
    try {
      webSocket.close(code);
    } catch {
      // It was not open yet.
    }
  }
}

// === Entry points ===

const CLIENT_OPTIONS = [
  "transport", "baseUrl", "signal", "headers", "credentials", "getTicket", "WebSocket", "EventSource", "fetch", "idempotencyKey",
  "cancelOnAbort", "retries", "retryBase", "retryCap", "stallTimeout", "openTimeout",
];

/** Rejects idempotency keys that the gateway would reject: it logs and compares them, so they must not be secrets. */
function checkKey(key) {
  let problem = null;
  if (looksLikeCredential(key)) problem = "looks like an API key. A credential belongs in `headers`";
  else if (!/^[\x21-\x7e]+$/.test(key)) problem = "is empty or has characters that are not visible ASCII";
  if (problem) {
    throw new TokenwireError(`The idempotency key ${problem}. Use a random value.`, { code: "invalid_value", param: "idempotencyKey" });
  }
}

/** Splits the options into settings of this module and parameters of the request. */
function split(options = {}, inherited = {}) {
  const settings = { ...DEFAULTS, ...inherited };
  const request = {};
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (CLIENT_OPTIONS.includes(name)) settings[name] = value;
    else request[name] = value;
  }
  if (!["auto", "ws", "sse", "eventsource"].includes(settings.transport)) {
    throw new TokenwireError(`The transport '${settings.transport}' is not known; expected "auto", "ws", "sse" or "eventsource".`, { code: "invalid_value", param: "transport" });
  }
  if (settings.idempotencyKey !== undefined) checkKey(String(settings.idempotencyKey));
  settings.baseUrl = String(settings.baseUrl ?? defaultBaseUrl()).replace(/\/+$/, "").replace(/\/v1$/, "");
  settings.WebSocket ??= globalThis.WebSocket;
  settings.EventSource ??= globalThis.EventSource;
  // Called without `this`: browsers require it.
  const fetcher = settings.fetch ?? globalThis.fetch;
  settings.fetch = (url, init) => fetcher(url, init);
  if (request.messages !== undefined) {
    request.input = request.messages.map(itemOf);
    delete request.messages;
  }
  delete request.stream;
  return [settings, request];
}

/** Starts a generation and reads its answer. */
export function stream(options) {
  const [settings, request] = split(options);
  if (request.input === undefined && request.prompt === undefined && request.previous_response_id === undefined) {
    throw new TokenwireError("The request has no question: set `input` or `messages`.", { code: "missing_required_parameter", param: "input" });
  }
  return new TokenStream(settings, { request });
}

/** Reads a stream that was started elsewhere, after event `after` or from its beginning. */
export function attach(id, { after = null, ...options } = {}) {
  if (typeof id !== "string" || !/^resp_[A-Za-z0-9_-]+$/.test(id)) {
    throw new TokenwireError(`'${id}' is not the id of a stream; expected resp_….`, { code: "invalid_value", param: "id" });
  }
  const [settings] = split(options);
  return new TokenStream(settings, { request: null, id, after });
}

/** One WebSocket for many streams. */
export function connect(options) {
  const [settings] = split(options);
  return new TokenwireSocket({ ...settings, transport: "ws" });
}
