// A gateway with keys, in a file that a test changes, and https in front of it.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { freePort } from './own_gateway.mjs';
import { simulator, until } from './surroundings.mjs';

export const KEY = 'sk-tw-AliceAliceAliceAliceAlice';
export const OTHER_KEY = 'sk-tw-SecondSecondSecondSecond';

export class KeyedGateway {
  #child;
  #folder;
  #log = '';
  #tls = null;

  /** Starts a gateway whose file has the key of Alice. */
  static async start() {
    const program = process.env.TOKENWIRE_PROGRAM;
    if (!program) throw new Error('TOKENWIRE_PROGRAM is not set; run these tests with `cargo xtask test --only browser`');
    const gateway = new KeyedGateway();
    gateway.#folder = await mkdtemp(path.join(tmpdir(), 'tokenwire-'));
    await gateway.allow([KEY]);
    const port = await freePort();
    const settings = Object.entries(process.env).filter(([name]) => !name.startsWith('TOKENWIRE_'));
    gateway.url = `http://127.0.0.1:${port}`;
    gateway.#child = spawn(program, ['--host', '127.0.0.1', '--port', String(port)], {
      cwd: gateway.#folder,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...Object.fromEntries(settings),
        OPENAI_BASE_URL: `${simulator}/v1`,
        TOKENWIRE_DEFAULT_MODEL: 'simulator',
        TOKENWIRE_AUTH__KEYS_FILE: path.join(gateway.#folder, 'keys.yaml'),
        TOKENWIRE_SERVER__TRUSTED_PROXIES: '["127.0.0.2"]',
      },
    });
    for (const output of [gateway.#child.stdout, gateway.#child.stderr]) output.on('data', (bytes) => { gateway.#log += bytes; });
    await until('the gateway serves', async () => {
      if (gateway.#child.exitCode !== null) throw new Error(`the gateway ended:\n${gateway.#log}`);
      return fetch(`${gateway.url}/readyz`).then((response) => response.ok, () => false);
    });
    return gateway;
  }

  /** What the gateway has logged. */
  get log() { return this.#log; }

  /** Changes the keys to these, all of Alice. The others are revoked. */
  async allow(keys) {
    const entries = keys.map((key) => `  - {owner: alice, key: ${key}}\n`).join('');
    await writeFile(path.join(this.#folder, 'keys.yaml'), keys.length > 0 ? `keys:\n${entries}` : 'keys: []\n');
  }

  /** Asks for a ticket. */
  async ticket(body, key = KEY) {
    const response = await fetch(`${this.url}/v1/tickets`, {
      method: 'POST', headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' }, body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`no ticket: ${await response.text()}`);
    return (await response.json()).ticket;
  }

  /** Starts a proxy that ends TLS. Returns its address. */
  async secure() {
    const [key, cert] = ['key.pem', 'cert.pem'].map((name) => path.join(this.#folder, name));
    await promisify(execFile)('openssl', [
      'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost',
      '-keyout', key, '-out', cert,
    ]);
    const target = new URL(this.url);
    // The address that the gateway trusts as a proxy's.
    const options = (request) => ({
      host: target.hostname, port: target.port, localAddress: '127.0.0.2', method: request.method, path: request.url,
      headers: { ...request.headers, 'x-forwarded-proto': 'https', 'x-forwarded-host': request.headers.host },
    });
    this.#tls = https.createServer({ key: await readFile(key), cert: await readFile(cert) }, (request, response) => {
      const onward = http.request(options(request), (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      onward.on('error', () => response.destroy());
      response.on('close', () => onward.destroy());
      request.pipe(onward);
    });
    this.#tls.on('upgrade', (request, socket, head) => {
      const onward = http.request(options(request));
      onward.on('upgrade', (answer, upstream) => {
        const lines = answer.rawHeaders.flatMap((name, at) => (at % 2 === 0 ? [`${name}: ${answer.rawHeaders[at + 1]}`] : []));
        socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join('\r\n')}\r\n\r\n`);
        upstream.write(head);
        upstream.pipe(socket).pipe(upstream);
        for (const end of [socket, upstream]) end.on('error', () => { socket.destroy(); upstream.destroy(); });
      });
      onward.on('response', (answer) => socket.end(`HTTP/1.1 ${answer.statusCode} Refused\r\nconnection: close\r\n\r\n`));
      onward.on('error', () => socket.destroy());
      onward.end();
    });
    this.#tls.listen(0, '127.0.0.1');
    await once(this.#tls, 'listening');
    return `https://localhost:${this.#tls.address().port}`;
  }

  async close() {
    this.#tls?.closeAllConnections();
    this.#tls?.close();
    this.#child.kill('SIGKILL');
    await once(this.#child, 'exit');
    await rm(this.#folder, { recursive: true, force: true });
  }
}
