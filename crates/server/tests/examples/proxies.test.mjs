// deploy/nginx.conf and deploy/Caddyfile in Debian's nginx and Caddy: no token waits for the next one, and sockets pass.
//
// The upstream gives some tokens and then nothing more. What a proxy holds back until more comes would never arrive, so each test
// passes at once or not at all, and no time is measured.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { blocks, counted, freePort, question, root, serve, simulator, told, until, upstreamSaw } from './surroundings.mjs';

/** The file of deploy/, with the addresses of this run in the place of those it documents. */
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
    const site = await configuration('nginx.conf', [['server 127.0.0.1:3000;', `server ${gateway};`], ['listen 8080;', `listen 127.0.0.1:${port};`]]);
    await writeFile(path.join(folder, 'site.conf'), site);
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${folder}/${kind};`);
    // What surrounds the file may well compress everything.
    const around = `daemon off; pid ${folder}/nginx.pid; error_log stderr; worker_processes 1; ${process.getuid() === 0 ? 'user root;' : ''}
      events {} http { access_log off; gzip on; gzip_types *; gzip_proxied any; gzip_min_length 0; ${temporary.join(' ')} include ${folder}/site.conf; }`;
    await writeFile(path.join(folder, 'nginx.conf'), around);
    return ['nginx', ['-p', folder, '-e', 'stderr', '-c', `${folder}/nginx.conf`]];
  },

  async caddy(folder, port, gateway) {
    const site = await configuration('Caddyfile', [['reverse_proxy 127.0.0.1:3000', `reverse_proxy ${gateway}`], ['\n:8080 {', `\n:${port} {`]]);
    await writeFile(path.join(folder, 'Caddyfile'), `{\n\tadmin off\n\tdefault_bind 127.0.0.1\n}\n${site}`);
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
      // Without grace, so that a reader who leaves is seen to leave.
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

    /** An answer that stops after so many tokens and says nothing more. */
    const stalled = (tokens) => question(1000, { more: `fault=stall after=${tokens}` }).text;
    const post = (where, body, headers = {}) =>
      fetch(url + where, { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json', 'accept-encoding': 'gzip, br', ...headers } });

    for (const tokens of [1, 2, 7]) {
      test(`${tokens} of the events come while the next is not there yet`, async () => {
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

      test(`${tokens} of the SDKs' chunks come while the next is not there yet`, async () => {
        const response = await post('/v1/chat/completions', { stream: true, messages: [{ role: 'user', content: stalled(tokens) }] });
        let text = '';
        for await (const { data } of blocks(response)) {
          text += JSON.parse(data).choices[0]?.delta.content ?? '';
          if (text === counted(tokens)) break;
        }
        assert.equal(text, counted(tokens));
      });

      test(`${tokens} of the words come as bare text while the next is not there yet`, async () => {
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
      test(`a socket on ${where} passes, and no frame waits for the next`, async () => {
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

    test('a reader comes back by the last number', async () => {
      const seen = [];
      for await (const block of blocks(await post('/v1/streams', { input: question(6).text }))) if (block.id) seen.push(block);
      const [id] = seen[0].id.split('.');
      const again = [];
      for await (const block of blocks(await fetch(`${url}/v1/streams/${id}`, { headers: { 'last-event-id': seen[4].id } }))) again.push(block);
      assert.deepEqual(again, seen.slice(5));
      assert.equal((await fetch(`${url}/v1/streams/${id}`, { headers: { 'last-event-id': seen.at(-1).id } })).status, 204);
    });

    test('a reader who leaves is seen to leave', async () => {
      const { word, text } = question(1000, { more: 'fault=stall after=2' });
      for await (const { data } of blocks(await post('/v1/streams', { input: text }))) if (data.includes(' t1')) break;
      await until('the upstream is told to stop', async () => (await upstreamSaw(word))[0].outcome === 'aborted');
    });

    test('an answer that breaks off does not look whole', async () => {
      const { text } = question(9, { more: 'fault=cut after=3' });
      const seen = [];
      for await (const { data } of blocks(await post('/v1/streams', { input: text }))) seen.push(JSON.parse(data));
      assert.equal(seen.at(-1).type, 'response.failed');
      const chunks = await post('/v1/chat/completions', { stream: true, messages: [{ role: 'user', content: text }] });
      const chat = await chunks.text();
      assert.match(chat, /data: \{"error":/);
      assert.doesNotMatch(chat, /\[DONE\]/);
      // Debian's Caddy ends a body in order that was broken off; deploy/README.md says so.
      if (name !== 'caddy') await assert.rejects((await post('/v1/streams', { input: text }, { accept: 'text/plain' })).text());
    });

    test('the gateway sees the host that was asked for, with its port', async () => {
      // A loopback origin on another port is let in, but is not the gateway's own: only the latter needs no CORS header.
      const response = await post('/v1/streams', { input: question(1).text }, { origin: url });
      assert.equal(response.status, 200);
      assert.equal(response.headers.get('access-control-allow-origin'), null);
      await response.text();
    });
  });
}
