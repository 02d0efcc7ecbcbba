// The client module in Chromium: the same cases as in Node, with the browser's own fetch, WebSocket and EventSource.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test } from 'node:test';
import { shut, visit } from './browser.mjs';
import { badRoad, dice } from './chaos.mjs';
import { RECONNECTS, assertPauses, scriptedGateway } from './scripted_gateway.mjs';
import { aborted, gateway, marker, question, upstreamSaw } from './surroundings.mjs';

const QUICK = { model: 'simulator', retryBase: 40, retryCap: 200, stallTimeout: 3000, openTimeout: 1000 };
const TRANSPORTS = ['ws', 'sse', 'eventsource', 'auto'];
const cases = await readFile(fileURLToPath(new URL('cases.mjs', import.meta.url)), 'utf8');

let visited;
const roads = [];
async function road(options) {
  const made = await badRoad(gateway, options);
  roads.push(made);
  return made;
}

before(async () => {
  // Not the chat page: its content security policy forbids other origins. This page loads the module from the gateway.
  // An answer that is cut in its head has no CORS header, or no content type, and the browser reports that.
  visited = await visit(`${gateway}/healthz`, { expected: /net::ERR_|WebSocket connection to .* failed|Failed to load resource|blocked by CORS policy|EventSource's response has a MIME type/ });
  await visited.page.route('**/cases.mjs', (route) => route.fulfill({ contentType: 'text/javascript', body: cases }));
});
after(async () => {
  await Promise.all(roads.map((each) => each.close()));
  await shut();
  assert.deepEqual(visited.wrong, []);
});

function run(name, options) {
  return visited.page.evaluate(async ({ name, options, gateway }) => {
    const [tokenwire, cases] = await Promise.all([import(`${gateway}/tokenwire.js`), import(`${gateway}/cases.mjs`)]);
    return cases[name](tokenwire, options);
  }, { name, options, gateway });
}

describe('the module in Chromium', () => {
  for (const transport of TRANSPORTS) {
    test(`an answer over ${transport} is complete`, async () => {
      const seen = await run('wholeAndOnce', { ...QUICK, baseUrl: gateway, transport, input: question(300), tokens: 300 });
      assert.deepEqual(seen.wrong, []);
      assert.equal(seen.transport, transport === 'auto' ? 'ws' : transport);
    });

    test(`the default base URL is the module's own origin (${transport})`, async () => {
      const seen = await run('wholeAndOnce', { ...QUICK, transport, input: question(3), tokens: 3 });
      assert.deepEqual(seen.wrong, []);
    });

    for (const seed of [4, 5]) {
      test(`an answer over ${transport} is complete and not repeated across cuts (seed ${seed})`, async () => {
        const roll = dice(seed);
        const cuts = Array.from({ length: 4 }, () => 1800 + Math.floor(roll() * 5000));
        const bad = await road({ cuts });
        const word = marker();
        const { wrong } = await run('wholeAndOnce', { ...QUICK, baseUrl: bad.url, transport, input: question(400, { word, tbt: '1ms' }), tokens: 400 });
        assert.deepEqual(wrong, [], `cuts at ${cuts}`);
        assert.ok(bad.made >= 3, `only ${bad.made} cuts`);
        assert.equal((await upstreamSaw(word)).length, 1);
      });
    }

    test(`a repeated start over ${transport} is billed once`, async () => {
      const bad = await road({ cuts: [0, 10, 200] });
      const word = marker();
      const { wrong } = await run('wholeAndOnce', { ...QUICK, baseUrl: bad.url, transport, input: question(50, { word }), tokens: 50 });
      assert.deepEqual(wrong, []);
      assert.equal(bad.made, 3);
      assert.equal((await upstreamSaw(word)).length, 1);
    });

    test(`an abort over ${transport} cancels the upstream request`, async () => {
      const word = marker();
      const seen = await run('abortAfter', { ...QUICK, baseUrl: gateway, transport, input: question(100_000, { word, tbt: '5ms' }), tokens: 5 });
      assert.deepEqual([seen.name, seen.state], ['AbortError', 'aborted']);
      await aborted(word);
    });
  }

  for (const upgrades of ['refuse', 'swallow', 'close']) {
    test(`auto falls back to SSE if a proxy handles upgrades with: ${upgrades}`, async () => {
      const bad = await road({ upgrades });
      const word = marker();
      const seen = await run('wholeAndOnce', { ...QUICK, baseUrl: bad.url, input: question(80, { word }), tokens: 80 });
      assert.deepEqual([seen.wrong, seen.transport], [[], 'sse']);
      assert.equal((await upstreamSaw(word)).length, 1);
    });
  }

  test('ten streams share one socket across repeated cuts', async () => {
    const bad = await road({ cuts: [4000, 9000, 30_000, 20_000] });
    const word = marker();
    const tokens = Array.from({ length: 10 }, (_, at) => 60 + at * 7);
    const seen = await run('lanes', { ...QUICK, baseUrl: bad.url, tokens, inputs: tokens.map((count) => question(count, { tbt: '3ms', word })) });
    assert.deepEqual(seen.wrong, []);
    assert.ok(bad.made >= 3);
    assert.equal((await upstreamSaw(word)).length, 10);
  });

  for (const [name, { connections, object, expected, pause }] of Object.entries(RECONNECTS)) {
    for (const transport of ['ws', 'sse', 'eventsource']) {
      test(`over ${transport}: ${name}`, async () => {
        const scripted = await scriptedGateway(connections, { response: object });
        const seen = await run('outcome', { ...QUICK, baseUrl: scripted.url, transport, input: 'x' });
        scripted.close();
        assert.deepEqual([seen.text, seen.code, seen.numbers], [expected.text, expected.code, expected.numbers]);
        // EventSource does not say what it met, so one request asks again.
        if (expected.cursors) assert.deepEqual(scripted.seen.map(({ cursor }) => cursor), expected.cursors);
        if (pause && transport !== 'ws') assertPauses(scripted.seen, pause);
      });
    }
  }

  for (const transport of ['sse', 'eventsource']) {
    test(`a request over ${transport} that the browser queues is told from one that stalls`, async () => {
      const seen = await visited.page.evaluate(async ({ options, gateway, busy, input }) => {
        const tokenwire = await import(`${gateway}/tokenwire.js`);
        // Streams of another program in this browser: the module does not know of them.
        const others = Array.from({ length: 6 }, () => new EventSource(`${gateway}/v1/streams?input=${encodeURIComponent(busy)}`));
        await Promise.all(others.map((source) => new Promise((resolve) => { source.onmessage = resolve; })));
        const stream = tokenwire.stream({ ...options, input });
        const states = [];
        stream.on('status', ({ state, error }) => {
          states.push([state, error?.code ?? null]);
          if (state === 'queued') others[0].close();
        });
        const text = await stream.finalText;
        for (const source of others) source.close();
        return { text, states, reconnects: stream.reconnects };
      }, { gateway, busy: question(9, { more: 'ttft=1h' }), input: question(5), options: { ...QUICK, openTimeout: 300, stallTimeout: 2000, transport, baseUrl: gateway } });
      assert.equal(seen.text, ' t0 t1 t2 t3 t4');
      assert.ok(seen.states.some(([state, code]) => state === 'queued' && code === 'connection_queued'), JSON.stringify(seen.states));
      assert.equal(seen.reconnects, 0);
    });
  }

  test('the reason of a failed EventSource is fetched', async () => {
    const error = await run('failure', { ...QUICK, baseUrl: gateway, transport: 'eventsource', input: 'x', conversation: 'c' });
    assert.deepEqual([error.code, error.status], ['unsupported_parameter', 400]);
    // A plain question is sent by GET. A key that was used for another question is refused.
    const bare = { ...QUICK, baseUrl: gateway, transport: 'eventsource', idempotencyKey: marker() };
    assert.equal(await run('failure', { ...bare, input: question(2) }), null);
    const refused = await run('failure', { ...bare, input: question(3) });
    assert.deepEqual([refused.code, refused.status], ['idempotency_mismatch', 422]);
  });
});
