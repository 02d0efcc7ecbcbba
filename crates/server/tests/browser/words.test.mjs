// The chat page in English and in Chinese.
import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { ask, chat, findings, picture, shut, state } from './browser.mjs';
import { clientFolder } from './surroundings.mjs';

after(shut);

const folder = path.join(clientFolder, '..', 'page');
/** What needs no translation: names, keys, numbers and ids. */
const NEUTRAL = /^(?:Tokenwire|WebSocket|EventSource|fetch|simulator|Enter|Esc|[\d.]+ m?s|sk-…|resp_\w+|[^\p{L}]*)$/u;

/** Returns the visible texts and the labels of the page, without questions and answers. */
function texts(page) {
  return page.evaluate(() => {
    const isShown = (node) => node.checkVisibility() && !node.closest('.markdown, .question p, .reasoning div, .error details p, .title, .tool pre, noscript');
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) if (isShown(walker.currentNode.parentElement)) found.push(walker.currentNode.data.trim());
    for (const name of ['aria-label', 'placeholder', 'title']) {
      for (const node of document.querySelectorAll(`[${name}]`)) if (isShown(node)) found.push(node.getAttribute(name));
    }
    return found.filter(Boolean);
  });
}

async function assertChinese(page) {
  const foreign = (await texts(page)).filter((text) => !NEUTRAL.test(text) && !/\p{Script=Han}/u.test(text));
  assert.deepEqual(foreign, []);
}

describe('words', () => {
  test('of the scripts and of the client module are all translated', async () => {
    const words = await readFile(path.join(folder, 'words.js'), 'utf8');
    const has = (text) => words.includes(`\n  ${text}: `);
    const missing = [];
    for (const name of await readdir(folder)) {
      if (!name.endsWith('.js') || name === 'words.js') continue;
      const script = await readFile(path.join(folder, name), 'utf8');
      for (const [, text] of script.matchAll(/\bt\(("(?:[^"\\]|\\.)*")/g)) if (!has(text)) missing.push(`${name}: ${text}`);
    }
    const client = await readFile(path.join(clientFolder, 'tokenwire.js'), 'utf8');
    const explanations = client.slice(client.indexOf('const UNREADABLE'), client.indexOf('\n]);', client.indexOf('const EXPLANATIONS')));
    for (const [, text] of explanations.matchAll(/(?:, |= )("(?:[^"\\]|\\.)*")/g)) if (!has(text)) missing.push(`tokenwire.js: ${text}`);
    assert.ok(explanations.length > 1000);
    assert.deepEqual(missing, []);
  });

  const SIZES = { desktop: { viewport: { width: 1280, height: 860 } }, phone: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true } };
  for (const [size, settings] of Object.entries(SIZES)) {
    test(`are Chinese where the browser prefers it (${size})`, async () => {
      const { page, wrong, close } = await chat({ ...settings, locale: 'zh-CN', reducedMotion: 'reduce' });
      await page.waitForFunction(() => document.documentElement.lang === 'zh-CN');
      await assertChinese(page);
      await picture(page, `${size}-chinese-welcome`);
      await ask(page, 'x [[fault=cut after=5 tokens=10 text=count reasoning=5]]');
      await page.waitForSelector('.error:visible');
      await page.click('.error summary');
      await assertChinese(page);
      assert.match(await page.textContent('.error'), /模型服务器在回答途中中断了/);
      await picture(page, `${size}-chinese-failed`);
      await ask(page, 'x [[tokens=5 text=count]]');
      await state(page, 'done');
      if (size === 'phone') await page.click('#show-wire');
      await page.waitForSelector('.again:visible');
      await assertChinese(page);
      await page.click('#show-conversations');
      await page.waitForSelector('#conversations li');
      await assertChinese(page);
      assert.deepEqual(await findings(page), []);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true);
      await picture(page, `${size}-chinese-conversations`);
      assert.deepEqual(wrong, []);
      await close();
    });
  }

  test('are English elsewhere', async () => {
    const { page, wrong, close } = await chat({ locale: 'de-DE' });
    assert.equal(await page.getAttribute('html', 'lang'), 'en');
    assert.deepEqual((await texts(page)).filter((text) => /\p{Script=Han}/u.test(text)), []);
    assert.deepEqual(wrong, []);
    await close();
  });
});
