/** How a stream travels. `auto` takes a WebSocket and falls back to SSE where one cannot be had. */
export type Transport = "auto" | "ws" | "sse" | "eventsource";

/** `connecting`, `streaming`, `waiting` (for the next attempt) and `offline` go on; the others are the end. */
export type StreamState = "connecting" | "streaming" | "waiting" | "offline" | "done" | "failed" | "aborted" | "closed";

/** What a connection needs to know. */
export interface ConnectionOptions {
  /** The gateway, such as `https://gateway.example.com`. Default: where this module was loaded from. */
  baseUrl?: string;
  /** Default `auto`. */
  transport?: Transport;
  /** Headers of every request made with fetch, such as `Authorization`; a function is asked before each. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  credentials?: RequestCredentials;
  /** A fresh ticket for a WebSocket or an EventSource, which cannot send headers. Asked before each connection. */
  getTicket?: () => string | Promise<string>;
  /** The WebSocket class, where there is no global one (Node 20: from `ws`). */
  WebSocket?: unknown;
  /** The EventSource class, where there is no global one. */
  EventSource?: unknown;
  fetch?: typeof fetch;
  /** Whether an aborted stream is also cancelled at its upstream. Default true. */
  cancelOnAbort?: boolean;
  /** Attempts in a row, without an event in between, before the stream fails. Default 20. */
  retries?: number;
  /** The first pause's upper bound, doubled with each attempt; milliseconds. The pause is drawn from 0 to it. Default 500. */
  retryBase?: number;
  /** The longest pause, in milliseconds. Default 15000. */
  retryCap?: number;
  /** A connection that is silent for this long is dead, in milliseconds. Keep it over the gateway's heartbeat. Default 45000. */
  stallTimeout?: number;
  /** How long a WebSocket may take to open, in milliseconds. Default 8000. */
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
  /** Stops listening, and cancels the generation unless `cancelOnAbort` is false. */
  signal?: AbortSignal;
  /** Names this question: asked again with the same key it is answered by the same stream. Default: a random one. */
  idempotencyKey?: string;
  [parameter: string]: unknown;
}

export interface AttachOptions extends ConnectionOptions {
  /** The number of the last event that is known already. Default: from the beginning. */
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
  /** Of the connection at hand. */
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
  /** What was known is void; this is all there is now. */
  reset: (response: ResponseObject) => void;
  status: (status: StreamStatus) => void;
  done: (response: ResponseObject) => void;
  error: (error: TokenwireError) => void;
}

/** One answer, read to its end over as many connections as it takes. */
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
  /** The whole text, once it is whole. Rejects as `response` does. */
  readonly finalText: Promise<string>;
  /** Gives a function that stops listening. */
  on<T extends keyof StreamListeners>(type: T, listener: StreamListeners[T]): () => void;
  off<T extends keyof StreamListeners>(type: T, listener: StreamListeners[T]): void;
  /** Stops the generation at its upstream, and gives what there is of the answer. */
  cancel(): Promise<ResponseObject>;
  /** Stops listening and leaves the generation alone. */
  close(): void;
  /** Drops the connection, as a bad network would; the stream comes back by itself. */
  cut(): void;
  /** Each event, exactly once, from the first on. Leaving the loop early aborts the stream. Throws if the answer failed. */
  [Symbol.asyncIterator](): AsyncIterator<StreamEvent>;
}

/** One WebSocket that carries many streams. */
export class TokenwireSocket {
  readonly connected: boolean;
  /** How many streams use it just now. */
  readonly lanes: number;
  stream(options: StreamOptions): TokenStream;
  attach(id: string, options?: AttachOptions): TokenStream;
  /** Closes it for good; the generations go on. */
  close(): void;
}

/** What went wrong, in words for a person and with the facts for a program. */
export class TokenwireError extends Error {
  /** The gateway's or the upstream's error code, or this module's: `connection_lost`, `unreachable`, `closed`, … */
  readonly code: string | null;
  readonly status: number | null;
  readonly type: string | null;
  readonly param: string | null;
  /** Whether the same question may succeed when it is asked again. */
  readonly retryable: boolean;
  /** Milliseconds, if the gateway named a time. */
  readonly retryAfter: number | null;
  readonly responseId: string | null;
  readonly requestId: string | null;
  /** One or two sentences to show to whoever asked. */
  readonly explanation: string;
}

/** Parses `text/event-stream`, however it is split. */
export class SseParser {
  push(bytes: Uint8Array): { event: string; data: string; id: string }[];
}

/** Asks, and reads the answer. */
export function stream(options: StreamOptions): TokenStream;
/** Reads a stream that was started elsewhere. */
export function attach(id: string, options?: AttachOptions): TokenStream;
/** One WebSocket for many streams. */
export function connect(options?: ConnectionOptions): TokenwireSocket;
