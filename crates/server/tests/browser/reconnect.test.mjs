// The client module in Node while its gateway is killed, restarted and replaced, and when it comes back to a stream that changed.
import assert from 'node:assert/strict';
import http from 'node:http';
import { after, describe, test } from 'node:test';
import WebSocket from 'ws';
import { outcome } from './cases.mjs';
import { OwnGateway } from './own_gateway.mjs';
import { RECONNECTS, assertPauses, scriptedGateway } from './scripted_gateway.mjs';
import { client, counted, marker, question, upstreamSaw } from './surroundings.mjs';

const TRANSPORTS = ['ws', 'sse'];
const QUICK = { model: 'simulator', WebSocket, retryBase: 40, retryCap: 200, stallTimeout: 3000, openTimeout: 1000, retries: 200 };

after(() => Promise.all(OwnGateway.all.map((gateway) => gateway.close())));

describe('coming back to a stream', () => {
  for (const [name, { connections, object, expected, pause }] of Object.entries(RECONNECTS)) {
    for (const transport of TRANSPORTS) {
      test(`over ${transport}: ${name}`, async () => {
        const gateway = await scriptedGateway(connections, { response: object });
        const seen = await outcome(client, { ...QUICK, baseUrl: gateway.url, transport, input: 'x' });
        gateway.close();
        const { text, code, numbers, cursors = null, codes = null } = expected;
        assert.deepEqual([seen.text, seen.code, seen.numbers], [text, code, numbers]);
        if (cursors) assert.deepEqual(gateway.seen.map(({ cursor }) => cursor), cursors);
        if (codes) assert.deepEqual(seen.codes, codes);
        if (pause && transport === 'sse') assertPauses(gateway.seen, pause);
      });
    }
  }
});

/** Asks for an answer of this many tokens, and returns once 50 of them were received. `ended` resolves with its outcome. */
async function halfway(gateway, transport, tokens) {
  const word = marker();
  let [seen, show] = [0, null];
  const shown = new Promise((resolve) => { show = resolve; });
  const options = { ...QUICK, baseUrl: gateway.url, transport, input: question(tokens, { word, tbt: '3ms' }) };
  const ended = outcome(client, options, { onDelta: () => { if ((seen += 1) === 50) show(); } });
  await Promise.race([shown, ended]);
  return { word, ended };
}

describe('a gateway that is killed in mid-answer', () => {
  for (const transport of TRANSPORTS) {
    test(`and restarted with its disk ends the answer over ${transport} as lost, with all that was received`, async () => {
      const gateway = await OwnGateway.start('disk');
      const { ended, word } = await halfway(gateway, transport, 5000);
      await gateway.kill();
      await gateway.begin();
      const seen = await ended;
      assert.equal(seen.code, 'producer_lost');
      assert.match(seen.explanation, /restarted in the middle/);
      assert.ok(counted(5000).startsWith(seen.text) && seen.text.length >= counted(50).length, seen.text.slice(-40));
      assert.deepEqual(seen.shrunk, []);
      assert.equal((await upstreamSaw(word)).length, 1, 'the upstream is asked once');
      await gateway.close();
    });

    test(`and restarted without its memory fails the answer over ${transport}, with all that was received`, async () => {
      const gateway = await OwnGateway.start('memory');
      const { ended, word } = await halfway(gateway, transport, 5000);
      await gateway.kill();
      await gateway.begin();
      const seen = await ended;
      assert.equal(seen.code, 'stream_lost');
      assert.match(seen.explanation, /has not kept this answer/);
      assert.ok(counted(5000).startsWith(seen.text) && seen.text.length >= counted(50).length);
      assert.deepEqual(seen.shrunk, []);
      assert.equal((await upstreamSaw(word)).length, 1);
      await gateway.close();
    });
  }
});

describe('a gateway that is replaced in mid-answer', () => {
  for (const transport of TRANSPORTS) {
    test(`gives the whole answer over ${transport}`, async () => {
      const gateway = await OwnGateway.start('disk');
      const { ended, word } = await halfway(gateway, transport, 800);
      await gateway.begin();
      const seen = await ended;
      assert.deepEqual([seen.text, seen.code, seen.shrunk], [counted(800), null, []]);
      assert.equal((await upstreamSaw(word)).length, 1);
      await gateway.close();
    });
  }

  test('sends a reader on a kept connection to the next process at once', async () => {
    const gateway = await OwnGateway.start('disk');
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const get = (path, headers = {}) => new Promise((resolve, reject) => {
      const request = http.get(`${gateway.url}${path}`, { agent, headers }, (response) => {
        let text = '';
        response.on('data', (bytes) => { text += bytes; });
        response.on('end', () => resolve({ text, connection: response.headers.connection, isReused: request.reusedSocket }));
      });
      request.on('error', reject);
    });
    const { ended } = await halfway(gateway, 'ws', 800);
    await get('/healthz');
    await gateway.begin();
    const { text, connection, isReused } = await get('/v1/streams?input=x', { Accept: 'text/event-stream' });
    assert.deepEqual([text, connection, isReused], ['retry: 20\n\n', 'close', true]);
    assert.equal((await ended).text, counted(800));
    agent.destroy();
    await gateway.close();
  });
});
