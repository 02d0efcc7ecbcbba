// Addresses of the servers, and queries to the upstream.
//
// `cargo xtask test --only browser` starts a simulator and a gateway, and passes their addresses in the environment.
import { randomBytes } from 'node:crypto';
import { pathToFileURL } from 'node:url';

function told(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; run these tests with \`cargo xtask test --only browser\``);
  return value.replace(/\/$/, '');
}

export const gateway = told('TOKENWIRE_URL');
export const simulator = told('SIMULATOR_URL');
/** The folder of the client module. */
export const clientFolder = told('TOKENWIRE_CLIENT');
export const client = await import(pathToFileURL(`${clientFolder}/tokenwire.js`).href);

/** Returns a word that occurs in no other question. */
export function marker() {
  return `m${randomBytes(8).toString('hex')}`;
}

/** Returns a question whose answer is ` t0 t1 …`. */
export function question(tokens, { tbt = '0', word = marker(), more = '' } = {}) {
  return `${word} [[tokens=${tokens} tbt=${tbt} text=count ${more}]]`;
}

/** Returns ` t0 t1 …`, the answer to `[[tokens=N text=count]]`. */
export function counted(tokens) {
  return Array.from({ length: tokens }, (_, number) => ` t${number}`).join('');
}

/** Returns the upstream's requests that contain this word. */
export async function upstreamSaw(word) {
  const requests = await (await fetch(`${simulator}/requests`)).json();
  return requests.filter((request) => JSON.stringify(request.body ?? null).includes(word));
}

/** Polls until `holds` returns a truthy value, and returns it. */
export async function until(what, holds, { patience = 60_000 } = {}) {
  const started = performance.now();
  for (;;) {
    const value = await holds();
    if (value) return value;
    if (performance.now() - started > patience) throw new Error(`${what}: not within ${patience} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Waits until the upstream saw that the reader of this question left. */
export function aborted(word) {
  return until(`the upstream's request ${word} is aborted`, async () => {
    const requests = await upstreamSaw(word);
    return requests.length === 1 && requests[0].outcome === 'aborted';
  });
}
