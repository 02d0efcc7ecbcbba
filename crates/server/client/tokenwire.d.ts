/** The transport of a stream. `auto` uses a WebSocket and falls back to SSE. */
export type Transport = "auto" | "ws" | "sse" | "eventsource";

/**
 * `connecting`, `queued` (the browser has no free connection), `streaming`, `waiting` (for the next attempt) and `offline` continue; the
 * others are final.
 */
export type StreamState = "connecting" | "queued" | "streaming" | "waiting" | "offline" | "done" | "failed" | "aborted" | "closed";

/** What a ticket is for. */
export interface WantedTicket {
  /** `socket`: `{"may": ["read", "start", "cancel"]}`; `stream`: `{"stream": id, "may": ["read", "cancel"]}`; `start`: `{"may": ["start", "cancel"]}`. */
  use: "socket" | "stream" | "start";
  /** The stream, for `stream`. */
  id: string | null;
}

/** Settings of a connection. */
export interface ConnectionOptions {
  /** The gateway, such as `https://gateway.example.com`. Default: the origin of this module. */
  baseUrl?: string;
  /** Default `auto`. */
  transport?: Transport;
  /** Headers of every request made with fetch, such as `Authorization`. A function is called before each request. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  credentials?: RequestCredentials;
  /**
   * Returns a ticket from your server, which gets it with `POST /v1/tickets`. Called before each connection, and before a ticket ends.
   * Needed for a WebSocket or an EventSource, which cannot send headers; used for every request where there are no `headers`.
   */
  getTicket?: (wanted: WantedTicket) => string | Promise<string>;
  /** The WebSocket class, where there is no global one (Node 20: from `ws`). */
  WebSocket?: unknown;
  /** The EventSource class, where there is no global one. */
  EventSource?: unknown;
  fetch?: typeof fetch;
  /** Whether an aborted stream is also cancelled at its upstream. Default true. */
  cancelOnAbort?: boolean;
  /** Attempts in a row, without an event in between, before the stream fails. Default 20. */
  retries?: number;
  /** Upper bound of the first pause in milliseconds, doubled with each attempt. The pause is random between 0 and it. Default 500. */
  retryBase?: number;
  /** The longest pause, in milliseconds. Default 15000. */
  retryCap?: number;
  /** A connection that is silent for this long is dropped, in milliseconds. Keep it above the gateway's heartbeat. Default 45000. */
  stallTimeout?: number;
  /** Time that a WebSocket may take to open, in milliseconds. Default 8000. */
  openTimeout?: number;
}

/** A question, and any other parameter of the Responses API: `temperature`, `tools`, `max_output_tokens`, … */
export interface StreamOptions extends ConnectionOptions {
  input?: string | object[];
  /** Chat messages; sent as `input`. */
  messages?: { role: string; content: string | object[] }[];
  model?: string;
  instructions?: string;
  previous_response_id?: string;
  /** Stops reading, and cancels the generation unless `cancelOnAbort` is false. */
  signal?: AbortSignal;
  /** Key of this request: repeated with the same key, it is answered by the same stream. Not a credential. Default: random. */
  idempotencyKey?: string;
  [parameter: string]: unknown;
}

export interface AttachOptions extends ConnectionOptions {
  /** The number of the last known event. Default: from the beginning. */
  after?: number | null;
  signal?: AbortSignal;
}

/** One event of the Responses API, or of Tokenwire's own (`tokenwire:…`). */
export interface StreamEvent {
  type: string;
  sequence_number: number;
  [field: string]: unknown;
}

/** The response object of the Responses API. */
export interface ResponseObject {
  id: string;
  status: "queued" | "in_progress" | "completed" | "incomplete" | "failed" | "cancelled";
  model: string;
  output: object[];
  usage: { input_tokens: number; output_tokens: number; total_tokens: number } | null;
  previous_response_id: string | null;
  [field: string]: unknown;
}

export interface StreamStatus {
  state: StreamState;
  /** Transport of the current connection. */
  transport: "ws" | "sse" | "eventsource" | null;
  id: string | null;
  lastSequence: number;
  reconnects: number;
  /** Attempts in a row without an event; 0 while all is well. */
  attempt: number;
  /** Milliseconds until the next attempt. */
  delay: number;
  error: Error | null;
}

export interface StreamListeners {
  /** Each event, exactly once. */
  event: (event: StreamEvent) => void;
  /** A piece of the text. */
  delta: (text: string, event: StreamEvent) => void;
  /** A piece of the reasoning. */
  reasoning: (text: string, event: StreamEvent) => void;
  /** The text and reasoning were replaced by those of this object. */
  reset: (response: ResponseObject) => void;
  status: (status: StreamStatus) => void;
  done: (response: ResponseObject) => void;
  error: (error: TokenwireError) => void;
}

/** One answer, read to its end over any number of connections. */
export class TokenStream implements AsyncIterable<StreamEvent> {
  /** The response's id; null until the gateway has given it. */
  readonly id: string | null;
  /** The number of the last event that was applied; -1 before the first. */
  readonly lastSequence: number;
  /** The text so far. */
  readonly text: string;
  /** The reasoning so far. */
  readonly reasoning: string;
  readonly state: StreamState;
  readonly transport: "ws" | "sse" | "eventsource" | null;
  readonly reconnects: number;
  /** The id, once it is known. */
  readonly started: Promise<string>;
  /** The final object. Rejects if the answer failed, or was aborted or closed. */
  readonly response: Promise<ResponseObject>;
  /** The complete text. Rejects as `response` does. */
  readonly finalText: Promise<string>;
  /** Adds a listener. Returns a function that removes it. */
  on<T extends keyof StreamListeners>(type: T, listener: StreamListeners[T]): () => void;
  off<T extends keyof StreamListeners>(type: T, listener: StreamListeners[T]): void;
  /** Stops the generation at its upstream. Resolves with the answer so far. */
  cancel(): Promise<ResponseObject>;
  /** Stops reading and leaves the generation running. */
  close(): void;
  /** Drops the connection, as a network failure would. The stream resumes by itself. */
  cut(): void;
  /** Each event, exactly once, from the first on. Leaving the loop early aborts the stream. Throws if the answer failed. */
  [Symbol.asyncIterator](): AsyncIterator<StreamEvent>;
}

/** One WebSocket that carries many streams. */
export class TokenwireSocket {
  readonly connected: boolean;
  /** Number of streams that use it. */
  readonly lanes: number;
  stream(options: StreamOptions): TokenStream;
  attach(id: string, options?: AttachOptions): TokenStream;
  /** Closes it for good. The generations continue. */
  close(): void;
}

/** A failure, with a message for users and a code for programs. */
export class TokenwireError extends Error {
  /** The gateway's or the upstream's error code, or this module's: `connection_lost`, `unreachable`, `stream_lost`, `closed`, … */
  readonly code: string | null;
  readonly status: number | null;
  readonly type: string | null;
  readonly param: string | null;
  /** Whether the same request may succeed if it is repeated. */
  readonly retryable: boolean;
  /** The gateway's `Retry-After` in milliseconds. */
  readonly retryAfter: number | null;
  readonly responseId: string | null;
  readonly requestId: string | null;
  /** One or two sentences for the user. */
  readonly explanation: string;
}

/** Parses `text/event-stream` from bytes that may be split anywhere. */
export class SseParser {
  /** The pause before a reconnect that the stream names, in milliseconds; null if it names none. */
  readonly retry: number | null;
  push(bytes: Uint8Array): { event: string; data: string; id: string }[];
}

/** Starts a generation and reads its answer. */
export function stream(options: StreamOptions): TokenStream;
/** Reads a stream that was started elsewhere. */
export function attach(id: string, options?: AttachOptions): TokenStream;
/** Opens one WebSocket for many streams. */
export function connect(options?: ConnectionOptions): TokenwireSocket;
/** Returns whether a text is an API key or a token, which must not be used as a question or an idempotency key. */
export function looksLikeCredential(text: string): boolean;
