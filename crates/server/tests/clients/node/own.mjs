// A gateway for one test, before an upstream of that test.
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
 * further settings, such as `{ TIMEOUTS__FIRST_TOKEN: '1s' }`.
 */
export async function startGateway(baseUrl, api, settings = {}) {
  const program = process.env.TOKENWIRE_PROGRAM;
  assert.ok(program, 'TOKENWIRE_PROGRAM is not set; run these tests with `cargo xtask test --only node`');
  const foreign = /^(TOKENWIRE_|OPENAI_)/;
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)));
  const own = { DEFAULT_MODEL: 'gpt-4o', UPSTREAMS__0__NAME: 'upstream', UPSTREAMS__0__BASE_URL: baseUrl, UPSTREAMS__0__API: api, ...settings };
  for (const [name, value] of Object.entries(own)) env[`TOKENWIRE_${name}`] = value;
  // In an empty folder, so that no configuration file is found.
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

/** Starts a proxy to the server at `url` that counts its connections. */
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
    /** Returns the number of connections so far. */
    taken: () => taken,
    /** Waits until no connection is left. */
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

/** Returns a free port below those that the kernel gives to outgoing connections, which could take it before the server does. */
async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const isFree = await new Promise((resolve) => {
      const server = net.createServer().once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}
