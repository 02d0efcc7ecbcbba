// A gateway of the test's own, before an upstream of the test's own.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import OpenAI from 'openai';

const PATIENCE = 30_000;

/**
 * Starts the gateway's binary before the upstream at `baseUrl` that speaks `api`, and waits until it is ready. `settings` are
 * further ones, such as `{ TIMEOUTS__FIRST_TOKEN: '1s' }`.
 */
export async function startGateway(baseUrl, api, settings = {}) {
  const program = process.env.TOKENWIRE_PROGRAM;
  assert.ok(program, 'TOKENWIRE_PROGRAM is not set; run these tests with `cargo xtask test --only node`');
  const foreign = /^(TOKENWIRE_|OPENAI_)/;
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)));
  const own = { DEFAULT_MODEL: 'gpt-4o', UPSTREAMS__0__NAME: 'upstream', UPSTREAMS__0__BASE_URL: baseUrl, UPSTREAMS__0__API: api, ...settings };
  for (const [name, value] of Object.entries(own)) env[`TOKENWIRE_${name}`] = value;
  // In a folder of its own, so that no file lying about is taken for its configuration.
  const folder = await mkdtemp(path.join(os.tmpdir(), 'tokenwire-'));
  const port = await freePort();
  const child = spawn(program, ['--host', '127.0.0.1', '--port', String(port)], { env, cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.on('data', (piece) => (log = (log + piece).slice(-10_000)));
  const url = `http://127.0.0.1:${port}`;
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await gone;
    }
    await rm(folder, { recursive: true, force: true });
  };
  for (const deadline = Date.now() + PATIENCE; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    if (await fetch(`${url}/readyz`).then((answer) => answer.ok, () => false)) break;
    if (child.exitCode !== null || Date.now() > deadline) {
      await stop();
      throw new Error(`the gateway did not become ready:\n${log}`);
    }
  }
  return { url, stop, client: () => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'sk-of-a-test', maxRetries: 0 }) };
}

/** A road to the server at `url` that knows who is on it. */
export async function watchedRoad(url) {
  const target = new URL(url);
  const sockets = new Set();
  let taken = 0;
  let leave;
  const empty = new Promise((resolve) => (leave = resolve));
  const server = net.createServer((near) => {
    taken += 1;
    const far = net.connect(Number(target.port), target.hostname);
    sockets.add(near);
    near.on('error', () => {}).on('close', () => {
      far.destroy();
      sockets.delete(near);
      if (sockets.size === 0) leave();
    });
    far.on('error', () => near.destroy());
    near.pipe(far).pipe(near);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** How many connections there were. */
    taken: () => taken,
    /** Waits until nobody is left. */
    deserted: () => {
      let timer;
      const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error('the connection is still open')), PATIENCE)));
      return Promise.race([empty, late]).finally(() => clearTimeout(timer));
    },
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
