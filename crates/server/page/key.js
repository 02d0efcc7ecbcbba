/**
 * The key of this page, where the gateway needs one: from the address (`#key=…`), or asked for once. It is kept for this tab, and
 * sent in a header, so that it is in no address and no log.
 */
const NAME = "tokenwire.key";
const IN_ADDRESS = /^#key=(sk-tw-[A-Za-z0-9]+)$/;

let key = null;
try {
  key = sessionStorage.getItem(NAME);
} catch {
  // Without storage the key lasts until the page is closed.
}

/** Uses a key from now on. */
export function useKey(text) {
  key = text;
  try {
    sessionStorage.setItem(NAME, text);
  } catch {
    // As above.
  }
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

/** Returns the settings of a stream. Only fetch can send a header. */
export function access(transport) {
  return key === null ? { transport } : { transport: "sse", headers };
}

// Before any request.
takeFromAddress();
