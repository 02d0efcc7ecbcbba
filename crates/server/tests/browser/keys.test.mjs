// A gateway with keys, in Chromium: the page asks for a key and works with tickets, which end, are replaced, and are revoked.
import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';
import { answer, ask, open, shown, shut, state, visit } from './browser.mjs';
import { badRoad } from './chaos.mjs';
import { KEY, KeyedGateway, OTHER_KEY } from './keyed_gateway.mjs';
import { counted, marker, question, until, upstreamSaw } from './surroundings.mjs';

let gateway;
before(async () => { gateway = await KeyedGateway.start(); });
after(async () => {
  await shut();
  await gateway?.close();
});

/** Chromium's console messages about refused requests and cut connections. */
const REFUSED = /Failed to load resource|net::ERR_|WebSocket connection to .* failed/;
const whole = (tokens) => counted(tokens).trim();
const TRANSPORTS = ['ws', 'eventsource', 'sse', 'auto'];

/** Opens the page, which asks for a key. Notes every address and method of its requests. */
async function keyless(settings = {}, at = `${gateway.url}/`) {
  const context = await (await open()).newContext(settings);
  const asked = [];
  context.on('request', (request) => asked.push({ method: request.method(), url: request.url(), headers: request.headers() }));
  const visited = await visit(at, { context, expected: REFUSED });
  visited.page.on('websocket', (socket) => asked.push({ method: 'WS', url: socket.url(), headers: {} }));
  await visited.page.waitForSelector('#key-form:visible');
  return { ...visited, asked, close: () => context.close() };
}

async function give(page, key) {
  await page.fill('#key', key);
  await page.press('#key', 'Enter');
}

async function ready(page) {
  await page.waitForFunction(() => document.getElementById('key-form').hidden && [...document.querySelectorAll('#model option')].some(({ value }) => value));
}

/** Reads an answer in a page with the module, where each ticket is good for `seconds`. */
function reads(page, settings) {
  return page.evaluate(async ({ input, transport, seconds, failing, after, key }) => {
    const { stream } = await import('/tokenwire.js');
    const wanted = [];
    const getTicket = async ({ use, id }) => {
      wanted.push(use);
      if (wanted.length > 1 && wanted.length <= 1 + failing) throw new Error('not now');
      const may = { socket: ['read', 'start', 'cancel'], stream: ['read', 'cancel'], start: ['start', 'cancel'] }[use];
      const body = { may, valid_until: Math.floor(Date.now() / 1000) + seconds, ...(use === 'stream' ? { stream: id } : {}) };
      const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' };
      return (await (await fetch('/v1/tickets', { method: 'POST', headers, body: JSON.stringify(body) })).json()).ticket;
    };
    const answer = stream({ input, transport, getTicket, retryBase: 100 });
    const errors = [];
    answer.on('status', ({ error }) => { if (error) errors.push(error.code); });
    if (after > 0) setTimeout(() => answer.cut(), after);
    const response = await answer.response.catch((error) => ({ status: 'failed', code: error.code, message: error.message }));
    return { text: answer.text, status: response.status, code: response.code, wanted, errors, reconnects: answer.reconnects };
  }, { failing: 0, after: 0, key: KEY, ...settings });
}

describe('the page of a gateway with keys', () => {
  for (const transport of TRANSPORTS) {
    test(`asks for a key once, starts by POST and answers over ${transport}`, async () => {
      const { page, asked, wrong, close } = await keyless();
      await give(page, 'sk-tw-WrongWrongWrongWrong');
      await page.waitForFunction(() => document.getElementById('key-why').textContent !== '' && !document.getElementById('key-form').hidden);
      await give(page, KEY);
      await ready(page);
      const word = marker();
      await ask(page, question(40, { word, tbt: '5ms' }), transport);
      await state(page, 'done');
      assert.equal((await answer(page)).trim(), whole(40));
      await ask(page, question(7));
      await until('the second answer', async () => (await answer(page)).trim() === whole(7));
      assert.equal((await upstreamSaw(word)).length, 2, 'the conversation continues');
      await page.reload();
      await until('the answer after the reload', async () => (await answer(page)).trim() === whole(7));
      assert.equal(await page.isVisible('#key-form'), false);
      for (const { method, url } of asked) {
        assert.ok(!url.includes('sk-tw-'), `an address has the key: ${url}`);
        assert.ok(!url.includes('input='), `${method} ${url} starts by GET`);
      }
      assert.ok(!gateway.log.includes('sk-tw-') && !gateway.log.includes('tkt_'), gateway.log);
      assert.deepEqual(wrong, []);
      await close();
    });
  }

  test('reads on after a cut and after a reload in the middle of an answer', async () => {
    for (const transport of TRANSPORTS) {
      const { page, wrong, close } = await keyless();
      await give(page, KEY);
      await ready(page);
      await ask(page, question(120, { tbt: '30ms' }), transport);
      await shown(page, 5);
      await page.click('#cut');
      await shown(page, 20);
      await page.reload();
      await until('the whole answer', async () => (await answer(page)).trim() === whole(120));
      assert.deepEqual(wrong, []);
      await close();
    }
  });

  test('takes a printed key out of the address', async () => {
    const context = await (await open()).newContext();
    const { page } = await visit(`${gateway.url}/#key=${KEY}`, { context });
    await ready(page);
    assert.equal(new URL(page.url()).hash, '');
    await ask(page, question(5), 'ws');
    await until('the answer', async () => (await answer(page)).trim() === whole(5));
    await context.close();
  });

  test('asks again once its key is revoked, and ends what it read', async () => {
    for (const transport of TRANSPORTS) {
      await gateway.allow([KEY, OTHER_KEY]);
      const { page, wrong, close } = await keyless();
      await until('the other key is valid', async () => {
        const response = await fetch(`${gateway.url}/v1/models`, { headers: { Authorization: `Bearer ${OTHER_KEY}` } });
        return response.ok;
      });
      await give(page, OTHER_KEY);
      await ready(page);
      await ask(page, question(100_000, { tbt: '20ms' }), transport);
      await shown(page, 5);
      await gateway.allow([KEY]);
      await until('the end of the answer', async () => (await page.getAttribute('#state', 'data-state')) !== 'streaming');
      await until('the question for a key', async () => {
        if (await page.isVisible('#key-form')) return true;
        // The answer ended as cancelled. The next question shows that the key is gone.
        if (await page.isVisible('#send')) await ask(page, question(3));
        return false;
      });
      await give(page, KEY);
      await ready(page);
      await ask(page, question(9));
      await until('the answer', async () => (await answer(page)).trim() === whole(9));
      assert.deepEqual(wrong, []);
      await close();
    }
  });
});

describe('a ticket that ends in the middle of an answer', () => {
  /** An answer that takes about six seconds. */
  const slow = () => question(60, { tbt: '100ms' });

  async function page(act) {
    const context = await (await open()).newContext();
    const { page } = await visit(`${gateway.url}/docs`, { context, expected: REFUSED });
    await act(page);
    await context.close();
  }

  test('is replaced on a WebSocket before it ends', () => page(async (page) => {
    const read = await reads(page, { input: slow(), transport: 'ws', seconds: 3 });
    assert.equal(read.text.trim(), whole(60), JSON.stringify(read));
    assert.equal(read.reconnects, 0, JSON.stringify(read));
    assert.ok(read.wanted.length >= 2 && read.wanted.every((use) => use === 'socket'), JSON.stringify(read));
  }));

  test('closes a WebSocket that could not be prolonged, which is opened again', () => page(async (page) => {
    const read = await reads(page, { input: slow(), transport: 'ws', seconds: 3, failing: 1 });
    assert.equal(read.text.trim(), whole(60), JSON.stringify(read));
    assert.ok(read.errors.includes('invalid_ticket') && read.reconnects >= 1, JSON.stringify(read));
  }));

  for (const transport of ['sse', 'eventsource']) {
    test(`ends no open stream over ${transport}, and another one opens the next`, () => page(async (page) => {
      const read = await reads(page, { input: slow(), transport, seconds: 2, after: 3500 });
      assert.equal(read.text.trim(), whole(60), JSON.stringify(read));
      assert.ok(read.reconnects >= 1, JSON.stringify(read));
      assert.ok(read.wanted.length >= 2, JSON.stringify(read));
    }));
  }

  for (const transport of ['ws', 'sse', 'eventsource']) {
    test(`is renewed over ${transport} after a sleep that outlasts it`, async () => {
      const road = await badRoad(gateway.url);
      const context = await (await open()).newContext();
      const { page } = await visit(`${road.url}/docs`, { context, expected: REFUSED });
      const devtools = await context.newCDPSession(page);
      await devtools.send('Network.enable');
      const network = (offline) => devtools.send('Network.emulateNetworkConditions', { offline, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
      const word = marker();
      const reading = reads(page, { input: question(60, { word, tbt: '100ms' }), transport, seconds: 2 });
      await until('the start', async () => (await upstreamSaw(word)).length === 1);
      await devtools.send('Page.setWebLifecycleState', { state: 'frozen' });
      await network(true);
      road.cutAll();
      await pause(4_000);
      await network(false);
      await devtools.send('Page.setWebLifecycleState', { state: 'active' });
      const read = await reading;
      assert.equal(read.text.trim(), whole(60), JSON.stringify(read));
      assert.ok(read.wanted.length >= 2 && read.reconnects >= 1, JSON.stringify(read));
      assert.equal((await upstreamSaw(word)).length, 1, 'the upstream is asked once');
      await context.close();
      await road.close();
    });
  }

  test('fails the stream after three refusals', () => page(async (page) => {
    const told = await page.evaluate(async ({ transports }) => {
      const { stream } = await import('/tokenwire.js');
      const told = {};
      for (const transport of transports) {
        const answer = stream({ input: 'x', transport, getTicket: () => 'tkt_none', retryBase: 50 });
        told[transport] = await answer.response.then(() => 'answered', ({ code, explanation }) => ({ code, explanation }));
      }
      return told;
    }, { transports: TRANSPORTS });
    for (const transport of TRANSPORTS) assert.equal(told[transport].code, 'invalid_ticket', JSON.stringify(told));
  }));
});

describe('the page over https', () => {
  test('changes the key for a cookie, which the page cannot read', async () => {
    const secure = await gateway.secure();
    const { page, asked, wrong, close } = await keyless({ ignoreHTTPSErrors: true }, `${secure}/`);
    await give(page, KEY);
    await ready(page);
    assert.equal(await page.evaluate(() => document.cookie + JSON.stringify(sessionStorage)), '{}');
    const kept = await page.context().cookies();
    assert.deepEqual(kept.map(({ name, httpOnly, secure, sameSite, path }) => [name, httpOnly, secure, sameSite, path]), [
      ['__Host-tokenwire', true, true, 'Strict', '/'],
    ]);
    for (const transport of TRANSPORTS) {
      await ask(page, question(20), transport);
      await until(`the answer over ${transport}`, async () => (await answer(page)).trim() === whole(20));
    }
    await page.reload();
    await ready(page);
    assert.equal(await page.isVisible('#key-form'), false);
    for (const { url } of asked) assert.ok(!url.includes('sk-tw-') && !url.includes('tkt_'), url);
    // Another port of this machine has the cookie, and gets nothing for it.
    const other = await page.context().newPage();
    await other.goto(`${gateway.url.replace('127.0.0.1', 'localhost')}/docs`);
    const seen = await other.evaluate(async (secure) => {
      const get = (init) => fetch(`${secure}/v1/models`, init).then((response) => response.status, () => 'refused');
      return [await get({ credentials: 'include' }), await get({})];
    }, secure);
    assert.ok(seen.every((status) => status !== 200), JSON.stringify(seen));
    assert.deepEqual(wrong, []);
    await close();
  });
});
