// Where everything is, and what the tests ask of the upstream.
//
// `cargo xtask test --only browser` starts a simulator and a gateway before it, and tells their addresses in the environment.
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

/** A word that no other question has. */
export function marker() {
  return `m${randomBytes(8).toString('hex')}`;
}

/** A question whose answer is ` t0 t1 …`. */
export function question(tokens, { tbt = '0', word = marker(), more = '' } = {}) {
  return `${word} [[tokens=${tokens} tbt=${tbt} text=count ${more}]]`;
}

/** ` t0 t1 …`: what `[[tokens=N text=count]]` is answered with. */
export function counted(tokens) {
  return Array.from({ length: tokens }, (_, number) => ` t${number}`).join('');
}

/** The requests that reached the upstream with this word in them. */
export async function upstreamSaw(word) {
  const requests = await (await fetch(`${simulator}/requests`)).json();
  return requests.filter((request) => JSON.stringify(request.body ?? null).includes(word));
}

/** Asks again until it holds; the upstream does not announce what it sees. */
export async function until(what, holds, { patience = 15_000 } = {}) {
  const started = performance.now();
  for (;;) {
    const value = await holds();
    if (value) return value;
    if (performance.now() - started > patience) throw new Error(`${what}: not within ${patience} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The upstream saw that its one reader of this question left. */
export function aborted(word) {
  return until(`the upstream sees that ${word} was given up`, async () => {
    const requests = await upstreamSaw(word);
    return requests.length === 1 && requests[0].outcome === 'aborted';
  });
}
