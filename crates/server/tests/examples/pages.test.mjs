// The example pages and the API page in Chromium, without errors and without requests to other machines.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, before, describe, test } from 'node:test';
import { chromium } from 'playwright-core';
import { counted, examples, gateway, question, run, serveFolder, upstreamSaw } from './surroundings.mjs';

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

let browser;
before(async () => {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
});
after(() => browser?.close());

/** Opens a page, passes it to `use`, and fails on console errors, exceptions and foreign requests. */
async function visit(url, use, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const wrong = [];
  page.on('console', (message) => message.type() === 'error' && wrong.push(message.text()));
  page.on('pageerror', (error) => wrong.push(String(error)));
  page.on('request', (request) => {
    const { protocol, hostname } = new URL(request.url());
    if (protocol !== 'data:' && hostname !== '127.0.0.1') wrong.push(`a request to ${request.url()}`);
  });
  try {
    await page.goto(url);
    await use(page);
    assert.deepEqual(wrong, []);
  } finally {
    await context.close();
  }
}

/** Returns axe's serious findings. */
async function findings(page) {
  const { violations } = await page.evaluate(`${axe};axe.run(document, { resultTypes: ['violations'] })`);
  return violations.filter(({ impact }) => ['serious', 'critical'].includes(impact)).map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html).join(' | ')}`);
}

const asPage = (folder) => async (use) => {
  const site = await serveFolder(folder);
  try {
    await visit(`${site.url}/?gateway=${gateway}`, use);
  } finally {
    site.close();
  }
};

async function ask(page, text) {
  await page.getByLabel('Question').fill(text);
  await page.getByRole('button', { name: 'Ask' }).click();
}

const shows = (page, selector, text) =>
  page.waitForFunction(([selector, text]) => document.querySelector(selector)?.textContent.includes(text), [selector, text]);

test('EventSource', async () => {
  await asPage(`${examples}/eventsource`)(async (page) => {
    const { word, text } = question(20, { tbt: '2ms' });
    await ask(page, text);
    await shows(page, '[role=status]', 'Done.');
    assert.equal(await page.locator('#answer').textContent(), counted(20));
    assert.deepEqual(await findings(page), []);
    await ask(page, 'x [[tokens=9 fault=error after=2 text=count]]');
    await page.waitForFunction(() => !['Done.', 'Answering…', ''].includes(document.querySelector('[role=status]').textContent));
    assert.equal(await page.locator('#answer').textContent(), counted(2));
    assert.equal((await upstreamSaw(word)).length, 1);
  });
});

test('WebSocket: two lanes are complete after a cut', async () => {
  await asPage(`${examples}/websocket`)(async (page) => {
    await shows(page, '[role=status]', 'Connected.');
    const [long, short] = [question(100, { tbt: '10ms' }), question(5)];
    await ask(page, long.text);
    await shows(page, '#answers', ' t3');
    await ask(page, short.text);
    await page.getByRole('button', { name: 'Cut' }).click();
    await shows(page, '#answers p:last-child', ' t99');
    await shows(page, '#answers p:first-child', ' t4');
    assert.deepEqual(await page.locator('#answers p').allTextContents(), [counted(5), counted(100)]);
    assert.deepEqual(await findings(page), []);
    for (const { word } of [long, short]) assert.equal((await upstreamSaw(word)).length, 1);
  });
});

describe('React', () => {
  const folder = `${examples}/react`;
  before(() => run('npm', ['run', 'build'], { cwd: folder }));

  test('an answer is complete after a cut', async () => {
    await asPage(folder)(async (page) => {
      const { word, text } = question(100, { tbt: '10ms' });
      await ask(page, text);
      await shows(page, '#answer', ' t3');
      await page.getByRole('button', { name: 'Cut' }).click();
      await shows(page, '[role=status]', 'done, reconnected 1×');
      assert.equal(await page.locator('#answer').textContent(), counted(100));
      assert.deepEqual(await findings(page), []);
      assert.equal((await upstreamSaw(word)).length, 1);
    });
  });

  test('Stop cancels the model, and a new question replaces the old one', async () => {
    await asPage(folder)(async (page) => {
      const { word, text } = question(100_000, { tbt: '5ms' });
      await ask(page, text);
      await shows(page, '#answer', ' t3');
      await page.getByRole('button', { name: 'Stop' }).click();
      await shows(page, '[role=status]', 'done');
      const [request] = await upstreamSaw(word);
      assert.notEqual(request.outcome, 'completed');
      await ask(page, question(5).text);
      await page.waitForFunction((text) => document.querySelector('#answer').textContent === text, counted(5));
    });
  });
});

test('a page of another origin can import the client module from the gateway', async () => {
  await asPage(`${examples}/eventsource`)(async (page) => {
    const answer = await page.evaluate(async ([gateway, input]) => {
      const { stream } = await import(`${gateway}/tokenwire.js`);
      return stream({ input }).finalText;
    }, [gateway, question(9).text]);
    assert.equal(answer, counted(9));
  });
});

test('the API page needs no script and shows every error', async () => {
  const codes = (await (await fetch(`${gateway}/openapi.json`)).json())['x-error-codes'].map(({ code }) => code);
  await visit(`${gateway}/docs`, async (page) => {
    for (const code of codes) assert.equal(await page.locator(`tr#${code}`).count(), 1, code);
    await page.locator('nav').getByRole('link', { name: 'Errors', exact: true }).click();
    assert.ok(await page.locator('#errors').isVisible());
  }, { javaScriptEnabled: false });
  for (const colorScheme of ['light', 'dark']) {
    await visit(`${gateway}/docs`, async (page) => {
      assert.deepEqual(await findings(page), []);
      await page.setViewportSize({ width: 390, height: 800 });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'the page is wider than a phone');
    }, { colorScheme });
  }
});
