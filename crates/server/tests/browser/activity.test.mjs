// The page of activity in Chromium.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { findings, open, picture, shut, visit } from './browser.mjs';
import { KEY, KeyedGateway } from './keyed_gateway.mjs';
import { OwnGateway } from './own_gateway.mjs';
import { marker, question, until } from './surroundings.mjs';

const RULES = [{ name: 'third', words: ['t2 t3'], action: 'notify' }, { name: 'halt', words: ['t7 t8'], action: 'stop' }];
let gateway;
before(async () => { gateway = await OwnGateway.start('memory', { TOKENWIRE_WATCH: JSON.stringify(RULES), TOKENWIRE_RETRY__ATTEMPTS: '0' }); });
after(async () => {
  await shut();
  await gateway.close();
});

const CUT = /Failed to load resource|net::ERR_/;
const SIZES = {
  desktop: { viewport: { width: 1280, height: 860 } },
  phone: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true },
};

/** Asks for an answer at this gateway. Returns what stops reading. */
async function ask(input, { url = gateway.url, headers = {}, waits = true } = {}) {
  const leave = new AbortController();
  const response = await fetch(`${url}/v1/responses`, {
    method: 'POST', body: JSON.stringify({ input, stream: true }), headers: { 'Content-Type': 'application/json', ...headers }, signal: leave.signal,
  });
  assert.equal(response.status, 200);
  if (waits) await response.text();
  return { id: response.headers.get('location').split('/').at(-1), leave: () => leave.abort() };
}

/** Opens the page and waits until it is live. */
async function activity(settings = {}, at = `${gateway.url}/activity`) {
  const visited = await visit(at, settings);
  await visited.page.waitForFunction(() => document.getElementById('state').dataset.state === 'streaming' && document.getElementById('n-open').textContent !== '–');
  return visited;
}

const text = (page, selector) => page.evaluate((selector) => document.querySelector(selector)?.textContent ?? '', selector);
const rows = (page, id) => page.evaluate((id) => [...document.querySelectorAll(`#${id} tr`)].map((row) => [...row.children].map((cell) => cell.textContent)), id);

describe('the page of activity', () => {
  test('shows streams that run, how they end, and matches, and no text', async () => {
    const { page, wrong, close } = await activity();
    const word = marker();
    const running = await ask(question(3, { word, tbt: '1h' }), { waits: false });
    await page.waitForFunction(() => document.querySelectorAll('#open tr').length === 1);
    await until('the first token', async () => / ms$/.test((await rows(page, 'open'))[0][2]));
    assert.equal(await text(page, '#n-open'), '1');
    await ask(question(6, { tbt: '5ms' }));
    await ask(question(20, { tbt: '1ms' }));
    await ask('x [[fault=cut after=3 tokens=9]]');
    await page.waitForFunction(() => document.querySelectorAll('#ended tr').length === 3);
    const ends = (await rows(page, 'ended')).map((cells) => cells[1]);
    assert.deepEqual(ends, ['failed: upstream_truncated', 'incomplete: content filter', 'completed']);
    const matched = (await rows(page, 'matched')).map((cells) => cells.slice(1, 4));
    assert.deepEqual(matched, [['halt', 'stop', 'text'], ['third', 'notify', 'text'], ['third', 'notify', 'text']]);
    assert.equal(await text(page, '#n-failed'), '1');
    assert.match(await text(page, '#upstreams'), /up/);
    await until('the plots', () => page.evaluate(() => document.querySelectorAll('#p-first circle').length >= 3 && document.querySelectorAll('#p-between circle').length >= 1 && document.querySelectorAll('#p-tokens rect').length >= 1));
    assert.match(await page.getAttribute('#p-first', 'aria-label'), /^Time to the first token: median .+, longest .+$/);
    assert.ok(!(await page.content()).includes(word), 'no question is shown');
    running.leave();
    assert.deepEqual(wrong, []);
    await close();
  });

  test('lists two matches of one rule at one time once each', async () => {
    const { page, wrong, close } = await activity();
    const both = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: 'POST', headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ messages: [{ role: 'user', content: question(5) }], n: 2, stream: true }),
    });
    await both.text();
    await page.waitForFunction(() => document.querySelectorAll('#matched tr').length === 2);
    const { id } = await ask(question(5));
    await page.waitForFunction((id) => [...document.querySelectorAll('#ended button')].some((button) => button.getAttribute('aria-label').includes(id)), id);
    assert.equal((await rows(page, 'matched')).length, 3);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('opens a stream that the key may read', async () => {
    const { page, wrong, close } = await activity();
    const { id } = await ask(question(5));
    await page.waitForSelector('#ended button');
    await page.click('#ended tr:first-child button');
    await page.waitForURL(`${gateway.url}/#${id}`);
    await page.waitForFunction(() => document.querySelector('.markdown')?.textContent.includes('t4'));
    assert.deepEqual(wrong, []);
    await close();
  });

  test('comes back after an outage and resumes', async () => {
    const { page, context, wrong, close } = await activity({ expected: CUT });
    await context.setOffline(true);
    await page.waitForFunction(() => document.getElementById('state').dataset.state === 'offline');
    const { id } = await ask(question(4));
    await context.setOffline(false);
    await page.waitForFunction(() => document.getElementById('state').dataset.state === 'streaming');
    await page.waitForFunction((id) => [...document.querySelectorAll('#ended button')].some((button) => button.getAttribute('aria-label').includes(id)), id);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('pauses, and is used with the keyboard', async () => {
    const { page, wrong, close } = await activity();
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'main');
    await page.focus('#pause');
    await page.keyboard.press('Space');
    await page.waitForFunction(() => document.getElementById('state').textContent === 'Paused');
    assert.equal(await page.getAttribute('#pause', 'aria-pressed'), 'true');
    const { id } = await ask(question(4));
    await page.keyboard.press('Space');
    await page.waitForFunction((id) => [...document.querySelectorAll('#ended button')].some((button) => button.getAttribute('aria-label').includes(id)), id);
    assert.deepEqual(wrong, []);
    await close();
  });

  for (const [size, settings] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      test(`${size}, ${colorScheme}: axe has no finding, and nothing is cut off`, async () => {
        const { page, wrong, close } = await activity({ ...settings, colorScheme, reducedMotion: 'reduce' });
        await picture(page, `activity-${size}-${colorScheme}-empty`);
        assert.deepEqual(await findings(page), []);
        const running = await Promise.all([1, 2, 3].map(() => ask(question(3, { tbt: '1h' }), { waits: false })));
        for (let at = 0; at < 12; at += 1) await ask(at === 5 ? 'x [[fault=cut after=3 tokens=9]]' : question(5 + at * 2, { tbt: `${1 + at}ms`, more: `ttft=${10 + at * 40}ms` }));
        await page.waitForFunction(() => document.querySelectorAll('#ended tr').length >= 12);
        assert.deepEqual(await findings(page), []);
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true);
        if (process.env.TOKENWIRE_ARTIFACTS) await page.screenshot({ path: `${process.env.TOKENWIRE_ARTIFACTS}/activity-${size}-${colorScheme}.png`, fullPage: true });
        for (const { leave } of running) leave();
        assert.deepEqual(wrong, []);
        await close();
      });
    }
  }

  test('is Chinese where the browser prefers it', async () => {
    const { page, wrong, close } = await activity({ ...SIZES.desktop, locale: 'zh-CN' });
    await ask(question(9));
    await ask('x [[fault=cut after=3 tokens=9]]');
    await page.waitForFunction(() => document.querySelectorAll('#ended tr').length >= 2);
    const texts = await page.evaluate(() => {
      const found = [];
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) if (walker.currentNode.parentElement.checkVisibility()) found.push(walker.currentNode.data.trim());
      return found.filter(Boolean);
    });
    const neutral = /^(?:simulator|default|openai|third|halt|[\d.]+ m?s|[^\p{L}]*|失败：\w+)$/u;
    assert.deepEqual(texts.filter((one) => !neutral.test(one) && !/\p{Script=Han}/u.test(one)), []);
    await picture(page, 'activity-chinese');
    assert.deepEqual(wrong, []);
    await close();
  });
});

describe('the page of a gateway with keys', () => {
  let keyed;
  before(async () => { keyed = await KeyedGateway.start(); });
  after(() => keyed?.close());

  test('asks for a key and watches with it', async () => {
    const context = await (await open()).newContext();
    const { page, wrong } = await visit(`${keyed.url}/activity`, { context, expected: CUT });
    await page.waitForSelector('#key-form:visible');
    assert.deepEqual(await findings(page), []);
    await page.fill('#key', KEY);
    await page.press('#key', 'Enter');
    await page.waitForFunction(() => document.getElementById('state').dataset.state === 'streaming');
    await ask(question(3), { url: keyed.url, headers: { Authorization: `Bearer ${KEY}` } });
    await page.waitForFunction(() => document.querySelectorAll('#ended tr').length === 1);
    assert.equal(await page.isVisible('#upstreams-section'), false, 'an owner is not shown the upstreams');
    assert.deepEqual(wrong, []);
    await context.close();
  });
});
