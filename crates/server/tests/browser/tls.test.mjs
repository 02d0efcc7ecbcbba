// The chat page and EventSource in Chromium over TLS and HTTP/2, with origin checks on.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { after, before, describe, test } from 'node:test';
import { answer, ask, chat, meter, shown, shut, state, visit } from './browser.mjs';
import { OwnGateway } from './own_gateway.mjs';
import { counted, question, until } from './surroundings.mjs';

after(async () => {
  await Promise.all(OwnGateway.all.map((gateway) => gateway.close()));
  await shut();
});

const whole = (tokens) => counted(tokens).trim();
/** Chromium's console messages about refused requests and cut connections. */
const CUT = /Failed to load resource|net::ERR_|WebSocket connection to .* failed|blocked by CORS/;

/** Opens the chat page of a gateway whose certificate is not trusted. */
function secure(gateway) {
  return chat({ ignoreHTTPSErrors: true, expected: CUT }, `${gateway.url}/`);
}

/** Returns a number of `/metrics`. */
async function metric(gateway, name) {
  const { text } = await gateway.get('/metrics');
  const line = text.split('\n').find((line) => line.startsWith(`${name} `));
  return Number(line?.split(' ')[1]);
}

/** Reads an answer in the page with this many EventSources at once. Returns the texts, and how many were open together. */
function read(page, inputs) {
  return page.evaluate((inputs) => Promise.all(inputs.map((input) => new Promise((resolve, reject) => {
    const source = new EventSource(`/v1/streams?input=${encodeURIComponent(input)}`);
    const [texts, ids] = [[], new Set()];
    let opened = 0;
    window.mostReaders ??= 0;
    window.readers ??= 0;
    source.onopen = () => {
      opened += 1;
      if (opened === 1) window.readers += 1;
      window.mostReaders = Math.max(window.mostReaders, window.readers);
    };
    source.onmessage = ({ data, lastEventId }) => {
      const event = JSON.parse(data);
      if (ids.has(lastEventId)) reject(new Error(`twice: ${lastEventId}`));
      ids.add(lastEventId);
      if (event.type === 'response.output_text.delta') texts.push(event.delta);
      if (event.type === 'response.completed') {
        source.close();
        window.readers -= 1;
        resolve({ text: texts.join('').trim(), opened });
      }
    };
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) reject(new Error('EventSource gave up')); };
  }))), inputs);
}

describe('a gateway with TLS', () => {
  let gateway;
  before(async () => { gateway = await OwnGateway.start('memory', { tls: true }); });

  test('the page works over HTTP/2, with each transport', async () => {
    const { page, wrong, close } = await secure(gateway);
    assert.equal(await page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol), 'h2');
    for (const transport of ['ws', 'sse', 'eventsource']) {
      await ask(page, question(100, { tbt: '2ms' }), transport);
      await until(`the answer over ${transport}`, async () => (await answer(page)).trim() === whole(100));
      await state(page, 'done');
      assert.match(await meter(page, 'events'), /none missing/);
    }
    const posted = await page.evaluate(async (input) => {
      const body = JSON.stringify({ input });
      const response = await fetch('/v1/streams', { method: 'POST', headers: { 'content-type': 'application/json' }, body });
      return { status: response.status, text: await response.text() };
    }, question(20));
    assert.equal(posted.status, 200);
    assert.match(posted.text, /response\.completed/);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('twelve EventSources of one page are open at once, on one connection', async () => {
    const { page, wrong, close } = await secure(gateway);
    const reading = read(page, Array.from({ length: 12 }, () => question(200, { tbt: '10ms' })));
    await until('twelve open streams', () => page.evaluate(() => window.readers === 12));
    assert.equal(await metric(gateway, 'tokenwire_http2_connections'), 1);
    assert.ok(await metric(gateway, 'tokenwire_http2_streams') >= 12);
    for (const { text, opened } of await reading) assert.deepEqual([text, opened], [whole(200), 1]);
    assert.equal(await page.evaluate(() => window.mostReaders), 12);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('a page of another origin is refused', async () => {
    const foreign = http.createServer((_, response) => response.end('<title>foreign</title>')).listen(0, '127.0.0.1');
    await once(foreign, 'listening');
    const at = `http://127.0.0.1:${foreign.address().port}/`;
    const { page, close } = await visit(at, { ignoreHTTPSErrors: true, expected: CUT });
    const seen = await page.evaluate(async (url) => {
      const post = await fetch(`${url}/v1/streams`, { method: 'POST', body: '{"input":"x"}' }).then(({ status }) => status, () => 'blocked');
      const socket = await new Promise((resolve) => {
        const socket = new WebSocket(`${url.replace('https', 'wss')}/v1/ws`);
        socket.onopen = () => resolve('open');
        socket.onclose = () => resolve('closed');
      });
      return { post, socket };
    }, gateway.url);
    assert.deepEqual(seen, { post: 'blocked', socket: 'closed' });
    await close();
    foreign.closeAllConnections();
    foreign.close();
  });
});

describe('a rolling restart with TLS', () => {
  test('EventSource goes on with the successor, and misses nothing', async () => {
    const gateway = await OwnGateway.start('disk', { tls: true });
    const { page, wrong, close } = await secure(gateway);
    const reading = read(page, Array.from({ length: 3 }, () => question(1000, { tbt: '5ms' })));
    await until('three open streams', () => page.evaluate(() => window.readers === 3));
    await gateway.begin();
    for (const { text, opened } of await reading) {
      assert.equal(text, whole(1000));
      assert.equal(opened, 2);
    }
    assert.deepEqual(wrong, []);
    await close();
  });

  for (const transport of ['ws', 'sse', 'eventsource']) {
    test(`the page over ${transport} goes on`, async () => {
      const gateway = await OwnGateway.start('disk', { tls: true });
      const { page, wrong, close } = await secure(gateway);
      await ask(page, question(1000, { tbt: '5ms' }), transport);
      await shown(page, 60);
      await gateway.begin();
      await state(page, 'done');
      assert.equal((await answer(page)).trim(), whole(1000));
      assert.deepEqual(wrong, []);
      await close();
      await gateway.close();
    });
  }
});
