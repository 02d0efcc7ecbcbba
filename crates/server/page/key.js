/**
 * The key of this page, where the gateway needs one: from the address (`#key=…`), or asked for once. It is kept for this tab, and
 * sent in a header, so that it is in no address and no log. A WebSocket and an EventSource get a ticket instead. Over https the key
 * is changed for a cookie, which the page cannot read.
 */
import { TokenwireError } from "/tokenwire.js";

const NAME = "tokenwire.key";
const IN_ADDRESS = /^#key=(sk-tw-[A-Za-z0-9]+)$/;
/** What the tickets of this page may do, by their use. */
const RIGHTS = { socket: ["read", "start", "cancel"], stream: ["read", "cancel"], start: ["start", "cancel"] };

let key = null;
/** The request for a cookie, while it runs. */
let changing = null;
try {
  key = sessionStorage.getItem(NAME);
} catch {
  // Without storage the key lasts until the page is closed.
}

function keep(text) {
  key = text;
  try {
    if (text === null) sessionStorage.removeItem(NAME);
    else sessionStorage.setItem(NAME, text);
  } catch {
    // As above.
  }
}

/** Uses a key from now on. */
export function useKey(text) {
  keep(text);
  if (location.protocol === "https:") changing = changeForCookie().catch(() => {}).finally(() => { changing = null; });
}

/** Waits until a key that was given can be used. */
export async function ready() {
  await changing;
}

/** Takes a key that the gateway printed out of the address. Returns whether there was one. */
export function takeFromAddress() {
  const found = IN_ADDRESS.exec(location.hash)?.[1];
  if (!found) return false;
  history.replaceState(null, "", location.pathname);
  useKey(found);
  return true;
}

/** Returns the headers of a request. */
export function headers() {
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

/** Returns the settings of a stream. With headers it is started by POST. */
export function access(transport) {
  return key === null ? { transport } : { transport, headers, getTicket };
}

async function post(body) {
  const response = await fetch("/v1/tickets", {
    method: "POST", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", ...headers() },
  });
  const answer = await response.json().catch(() => null);
  if (response.ok) return answer;
  throw new TokenwireError(answer?.error?.message ?? `The gateway answered with status ${response.status}.`, {
    code: answer?.error?.code, status: response.status, retryable: response.status >= 500,
  });
}

async function getTicket({ use, id }) {
  return (await post({ may: RIGHTS[use], ...(use === "stream" ? { stream: id } : {}) })).ticket;
}

async function changeForCookie() {
  await post({ cookie: true, may: ["read", "start", "cancel"] });
  keep(null);
}

// Before any request.
takeFromAddress();
