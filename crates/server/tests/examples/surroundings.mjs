// Shared parts: addresses, programs that run to their end or serve, static folders, questions.
//
// `cargo xtask test --only examples` installs the examples, starts a simulator and a gateway, and passes their places in the environment.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';

export function told(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; run these tests with \`cargo xtask test --only examples\``);
  return value.replace(/\/$/, '');
}

export const gateway = told('TOKENWIRE_URL');
export const simulator = told('SIMULATOR_URL');
/** Copies of the examples with their dependencies installed. */
export const examples = told('EXAMPLES');
/** The checkout. */
export const root = told('TOKENWIRE_ROOT');

/** Limit of every wait, in milliseconds. */
const PATIENCE = 60_000;
/** The environment of started programs, without the tests' own variables: a gateway would read them as settings. */
const surroundings = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('TOKENWIRE_')));
// Debian keeps servers in sbin, which an ordinary user's PATH leaves out.
surroundings.PATH += ':/usr/local/sbin:/usr/sbin:/sbin';

// The runner ends slow files by SIGTERM. Exit here, so that the `exit` handlers run.
process.once('SIGTERM', () => process.exit(143));

/** Returns a question whose answer is ` t0 t1 …`, with a word that occurs in no other question. */
export function question(tokens, { tbt = '0', more = '' } = {}) {
  const word = `m${randomBytes(8).toString('hex')}`;
  return { word, text: `${word} "quoted" [[tokens=${tokens} tbt=${tbt} text=count ${more}]]` };
}

/** Returns ` t0 t1 …`, the answer to a question. */
export function counted(tokens) {
  return Array.from({ length: tokens }, (_, number) => ` t${number}`).join('');
}

/** Returns the upstream's requests that contain this word. */
export async function upstreamSaw(word) {
  const requests = await (await fetch(`${simulator}/requests`)).json();
  return requests.filter((request) => JSON.stringify(request.body ?? null).includes(word));
}

/** Polls until `holds` returns a truthy value. */
export async function until(what, holds) {
  const started = performance.now();
  while (!(await holds())) {
    if (performance.now() - started > PATIENCE) throw new Error(`${what}: not within ${PATIENCE} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Runs a program to its end and returns its output. Fails if it fails. */
export async function run(program, args = [], { env = {}, cwd } = {}) {
  const child = spawn(program, args, {
    cwd,
    env: { ...surroundings, GATEWAY_URL: gateway, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: PATIENCE,
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
  const [code, signal] = await once(child, 'close');
  assert.equal(code, 0, `${program} ${args.join(' ')} ended with ${code ?? signal}\n${stdout}\n${stderr}`);
  return { stdout, stderr };
}

/** Returns the sections of an example's output by their `== name`. */
export function sections(output) {
  const parts = output.split(/^== (.*)\n/m).slice(1);
  return Object.fromEntries(parts.flatMap((name, at) => (at % 2 ? [] : [[name, parts[at + 1].replace(/\n+$/, '')]])));
}

/** Starts a server and waits until `port` accepts connections. Returns a function that ends it. */
export async function serve(program, args, { port, env = {}, cwd }) {
  const child = spawn(program, args, { cwd, env: { ...surroundings, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  // No server outlives the tests.
  process.once('exit', () => child.kill('SIGKILL'));
  let log = '';
  for (const output of [child.stdout, child.stderr]) output.setEncoding('utf8').on('data', (text) => (log = (log + text).slice(-10_000)));
  let ended = null;
  child.on('error', (error) => (ended = error));
  child.on('exit', (code, signal) => (ended = new Error(`${program} ended with ${code ?? signal}:\n${log}`)));
  const started = performance.now();
  while (!(await answers(port))) {
    if (ended) throw ended;
    if (performance.now() - started > PATIENCE) throw new Error(`${program} does not listen on ${port}:\n${log}`);
    // A listening port can only be polled.
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return async () => {
    if (ended) throw ended;
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    await gone;
  };
}

function answers(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.on('connect', () => (socket.destroy(), resolve(true))).on('error', () => resolve(false));
  });
}

/** Returns a free port below those that the kernel gives to outgoing connections, which could take it before the server does. */
export async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const isFree = await new Promise((resolve) => {
      const server = net.createServer().once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8' };

/** Serves the files of a folder. */
export async function serveFolder(folder) {
  const server = createServer(async (request, response) => {
    const name = path.normalize(new URL(request.url, 'http://x').pathname).replace(/\/$/, '/index.html');
    try {
      response.setHeader('content-type', TYPES[path.extname(name)] ?? 'application/octet-stream');
      response.end(await readFile(path.join(folder, name)));
    } catch {
      response.writeHead(404).end();
    }
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => (server.closeAllConnections(), server.close()) };
}

/** Yields the blocks of an event stream. Leaving the loop closes the connection. */
export async function* blocks(response) {
  let text = '';
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    const parts = text.split('\n\n');
    text = parts.pop();
    for (const part of parts) {
      const fields = part.split('\n').map((line) => line.match(/^([a-z]*): ?(.*)$/)).filter(Boolean);
      const of = (name) => fields.filter((field) => field[1] === name).map((field) => field[2]).join('\n');
      yield { id: of('id'), data: of('data') };
    }
  }
}
