// A gateway of one test, which the test kills, restarts and replaces.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import https from 'node:https';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { simulator, until } from './surroundings.mjs';

const program = process.env.TOKENWIRE_PROGRAM;

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

export class OwnGateway {
  /** Every gateway that was started, for the end of the tests. */
  static all = [];
  #port;
  #folder;
  #store;
  #tls = null;
  #processes = [];

  #settings;

  /**
   * Starts a gateway. `store` is "disk" or "memory", `settings` are further variables of its environment. With `tls` it has a
   * certificate that no client trusts.
   */
  static async start(store, { tls = false, ...settings } = {}) {
    if (!program) throw new Error('TOKENWIRE_PROGRAM is not set; run these tests with `cargo xtask test --only browser`');
    const gateway = new OwnGateway();
    OwnGateway.all.push(gateway);
    gateway.#store = store;
    gateway.#settings = settings;
    gateway.#port = await freePort();
    gateway.#folder = await mkdtemp(path.join(tmpdir(), 'tokenwire-'));
    if (tls) {
      gateway.#tls = { cert: path.join(gateway.#folder, 'cert.pem'), key: path.join(gateway.#folder, 'key.pem') };
      await promisify(execFile)('openssl', [
        'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost',
        '-keyout', gateway.#tls.key, '-out', gateway.#tls.cert,
      ]);
    }
    await gateway.begin();
    return gateway;
  }

  get url() { return this.#tls ? `https://localhost:${this.#port}` : `http://127.0.0.1:${this.#port}`; }

  /** Returns the status and the text of a GET. */
  get(where) {
    if (!this.#tls) return fetch(`${this.url}${where}`).then(async (response) => ({ status: response.status, text: await response.text() }));
    return new Promise((resolve, reject) => {
      https.get(`https://127.0.0.1:${this.#port}${where}`, { rejectUnauthorized: false, agent: false }, (response) => {
        let text = '';
        response.on('data', (bytes) => { text += bytes; });
        response.on('end', () => resolve({ status: response.statusCode, text }));
        response.on('error', reject);
      }).on('error', reject);
    });
  }

  /** Starts a process on the port. With a disk store one that runs there is replaced. Returns once the new one serves. */
  async begin() {
    const settings = Object.entries(process.env).filter(([name]) => !name.startsWith('TOKENWIRE_'));
    const child = spawn(program, ['--host', '127.0.0.1', '--port', String(this.#port)], {
      cwd: this.#folder,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        ...Object.fromEntries(settings),
        OPENAI_BASE_URL: `${simulator}/v1`,
        TOKENWIRE_DEFAULT_MODEL: 'simulator',
        ...this.#settings,
        TOKENWIRE_STORE__KIND: this.#store,
        ...(this.#store === 'disk' ? { TOKENWIRE_STORE__PATH: path.join(this.#folder, 'store') } : {}),
        ...(this.#tls ? {
          TOKENWIRE_SERVER__TLS__CERT: this.#tls.cert,
          TOKENWIRE_SERVER__TLS__KEY: this.#tls.key,
          // The page is the gateway's own, and no other of this machine is.
          TOKENWIRE_SERVER__ALLOW_LOOPBACK_ORIGINS: 'false',
        } : {}),
      },
    });
    const started = { child, log: '', exited: once(child, 'exit') };
    child.stderr.on('data', (bytes) => { started.log += bytes; });
    const replaces = this.#processes.some(({ child }) => child.exitCode === null && child.signalCode === null);
    this.#processes.push(started);
    await until('the gateway serves', async () => {
      if (child.exitCode !== null) throw new Error(`the gateway ended:\n${started.log}`);
      if (replaces) return started.log.includes('accepts no more connections and drains');
      return this.get('/readyz').then(({ status }) => status === 200, () => false);
    });
  }

  /** Kills the process with SIGKILL. */
  async kill() {
    const last = this.#processes.at(-1);
    last.child.kill('SIGKILL');
    await last.exited;
  }

  async close() {
    for (const { child, exited } of this.#processes.splice(0)) {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
      await exited;
    }
    await rm(this.#folder, { recursive: true, force: true });
  }
}
