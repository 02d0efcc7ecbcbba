// deploy/nginx.conf and deploy/Caddyfile in Debian's nginx and Caddy: no token is buffered, and WebSockets pass.
//
// The upstream sends some tokens and then stalls. Tokens that a proxy buffers would never arrive, so no time is measured.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { blocks, counted, freePort, question, root, serve, simulator, told, until, upstreamSaw } from './surroundings.mjs';

/** Returns a file of deploy/ with the documented addresses replaced by those of this run. */
async function configuration(name, places) {
  let text = await readFile(path.join(root, 'deploy', name), 'utf8');
  for (const [documented, here] of places) {
    assert.equal(text.split(documented).length, 2, `deploy/${name} names ${documented} once`);
    text = text.replace(documented, here);
  }
  return text;
}

const PROXIES = {
  async nginx(folder, port, gateway) {
    const site = await configuration('nginx.conf', [
      ['server 127.0.0.1:3000;', `server ${gateway};`], ['listen 8080;', `listen 127.0.0.1:${port};`],
      ['/var/log/nginx/access.log', `${folder}/access.log`], ['/var/log/nginx/error.log', `${folder}/error.log`],
    ]);
    await writeFile(path.join(folder, 'site.conf'), site);
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${folder}/${kind};`);
    // The surrounding configuration may compress everything.
    const around = `daemon off; pid ${folder}/nginx.pid; error_log stderr; worker_processes 1; ${process.getuid() === 0 ? 'user root;' : ''}
      events {} http { access_log off; gzip on; gzip_types *; gzip_proxied any; gzip_min_length 0; ${temporary.join(' ')} include ${folder}/site.conf; }`;
    await writeFile(path.join(folder, 'nginx.conf'), around);
    return ['nginx', ['-p', folder, '-e', 'stderr', '-c', `${folder}/nginx.conf`]];
  },

  async caddy(folder, port, gateway) {
    const site = await configuration('Caddyfile', [['reverse_proxy 127.0.0.1:3000', `reverse_proxy ${gateway}`], ['\n:8080 {', `\n:${port} {`],
      ['\tlog default {', `\tadmin off\n\tdefault_bind 127.0.0.1\n\tlog default {\n\t\toutput file ${folder}/access.log`]]);
    await writeFile(path.join(folder, 'Caddyfile'), site);
    return ['caddy', ['run', '--adapter', 'caddyfile', '--config', path.join(folder, 'Caddyfile')]];
  },
};

for (const [name, configure] of Object.entries(PROXIES)) {
  describe(name, () => {
    let folder;
    let url;
    let [stopGateway, stop] = [];
    before(async () => {
      folder = await mkdtemp(path.join(tmpdir(), 'tokenwire-proxy-'));
      const behind = await freePort();
      // Without grace, so that the upstream request ends as soon as the reader leaves.
      const settings = { OPENAI_BASE_URL: `${simulator}/v1`, TOKENWIRE_DEFAULT_MODEL: 'simulator', TOKENWIRE_STREAMS__DISCONNECT_GRACE: '0s' };
      stopGateway = await serve(told('GATEWAY'), ['--port', `${behind}`], { port: behind, env: settings, cwd: folder });
      const port = await freePort();
      url = `http://127.0.0.1:${port}`;
      const [program, args] = await configure(folder, port, `127.0.0.1:${behind}`);
      stop = await serve(program, args, { port, env: { HOME: folder, XDG_DATA_HOME: folder, XDG_CONFIG_HOME: folder } });
    });
    after(async () => {
      await stop?.();
      await stopGateway?.();
      await rm(folder, { recursive: true, force: true });
    });

    /** Returns a question whose answer stalls after this many tokens. */
    const stalled = (tokens) => question(1000, { more: `fault=stall after=${tokens}` }).text;
    const post = (where, body, headers = {}) =>
      fetch(url + where, { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json', 'accept-encoding': 'gzip, br', ...headers } });

    test('logs have no queries and no credentials', async () => {
      const secret = 'tkt_marked-secret';
      for (const where of [`/v1/models?ticket=${secret}`, `/v1/streams?input=x&ticket=${secret}`, `/nowhere?${secret}`]) {
        const headers = { authorization: `Bearer ${secret}`, cookie: `a=${secret}`, 'x-api-key': secret, referer: `${url}/?ticket=${secret}` };
        await (await fetch(url + where, { headers })).text();
      }
      const log = () => readFile(path.join(folder, 'access.log'), 'utf8').catch(() => '');
      await until('the requests in the log', async () => (await log()).includes('/nowhere'));
      assert.ok(!(await log()).includes(secret), await log());
      const errors = await readFile(path.join(folder, 'error.log'), 'utf8').catch(() => '');
      assert.ok(!errors.includes(secret), errors);
    });

    for (const tokens of [1, 2, 7]) {
      test(`${tokens} events arrive before the next is sent`, async () => {
        const response = await post('/v1/streams', { input: stalled(tokens) });
        assert.equal(response.headers.get('content-encoding'), null);
        let text = '';
        for await (const { data } of blocks(response)) {
          const event = data ? JSON.parse(data) : {};
          if (event.type === 'response.output_text.delta') text += event.delta;
          if (text === counted(tokens)) break;
        }
        assert.equal(text, counted(tokens));
      });

      test(`${tokens} chat chunks arrive before the next is sent`, async () => {
        const response = await post('/v1/chat/completions', { stream: true, messages: [{ role: 'user', content: stalled(tokens) }] });
        let text = '';
        for await (const { data } of blocks(response)) {
          text += JSON.parse(data).choices[0]?.delta.content ?? '';
          if (text === counted(tokens)) break;
        }
        assert.equal(text, counted(tokens));
      });

      test(`${tokens} words of plain text arrive before the next is sent`, async () => {
        const response = await post('/v1/streams', { input: stalled(tokens) }, { accept: 'text/plain' });
        let text = '';
        for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
          text += chunk;
          if (text === counted(tokens)) break;
        }
        assert.equal(text, counted(tokens));
      });
    }

    for (const where of ['/v1/ws', '/v1/responses']) {
      test(`a WebSocket on ${where} passes without buffering`, async () => {
        const socket = new WebSocket(url.replace('http', 'ws') + where, { origin: url });
        let text = '';
        await new Promise((resolve, reject) => {
          socket.on('error', reject).on('close', () => reject(new Error('closed')));
          socket.on('open', () => socket.send(JSON.stringify({ type: 'response.create', input: stalled(3) })));
          socket.on('message', (data) => {
            const event = JSON.parse(data);
            if (event.type === 'response.output_text.delta') text += event.delta;
            if (text === counted(3)) resolve();
          });
        });
        socket.terminate();
      });
    }

    test('a reader resumes by Last-Event-ID', async () => {
      const seen = [];
      for await (const block of blocks(await post('/v1/streams', { input: question(6).text }))) if (block.id) seen.push(block);
      const [id] = seen[0].id.split('.');
      const again = [];
      for await (const block of blocks(await fetch(`${url}/v1/streams/${id}`, { headers: { 'last-event-id': seen[4].id } }))) again.push(block);
      assert.deepEqual(again, seen.slice(5));
      assert.equal((await fetch(`${url}/v1/streams/${id}`, { headers: { 'last-event-id': seen.at(-1).id } })).status, 204);
    });

    test('a reader that leaves cancels the upstream request', async () => {
      const { word, text } = question(1000, { more: 'fault=stall after=2' });
      for await (const { data } of blocks(await post('/v1/streams', { input: text }))) if (data.includes(' t1')) break;
      await until('the abort of the upstream request', async () => (await upstreamSaw(word))[0].outcome === 'aborted');
    });

    test('a broken answer does not look complete', async () => {
      const { text } = question(9, { more: 'fault=cut after=3' });
      const seen = [];
      for await (const { data } of blocks(await post('/v1/streams', { input: text }))) seen.push(JSON.parse(data));
      assert.equal(seen.at(-1).type, 'response.failed');
      const chunks = await post('/v1/chat/completions', { stream: true, messages: [{ role: 'user', content: text }] });
      const chat = await chunks.text();
      assert.match(chat, /data: \{"error":/);
      assert.doesNotMatch(chat, /\[DONE\]/);
      // Debian's Caddy ends a broken body cleanly; see deploy/README.md.
      if (name !== 'caddy') await assert.rejects((await post('/v1/streams', { input: text }, { accept: 'text/plain' })).text());
    });

    test('the gateway gets the original Host with its port', async () => {
      // A loopback origin on another port is allowed but not the gateway's own: only the own origin gets no CORS header.
      const response = await post('/v1/streams', { input: question(1).text }, { origin: url });
      assert.equal(response.status, 200);
      assert.equal(response.headers.get('access-control-allow-origin'), null);
      await response.text();
    });
  });
}
