// The conversations that the chat page keeps in the browser.
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { answer, ask, chat, findings, meter, open, picture, shown, shut, state } from './browser.mjs';
import { OwnGateway } from './own_gateway.mjs';
import { counted, gateway, marker, question, until, upstreamSaw } from './surroundings.mjs';

after(async () => {
  await Promise.all(OwnGateway.all.map((gateway) => gateway.close()));
  await shut();
});

const CUT = /Failed to load resource|net::ERR_|WebSocket connection to .* failed/;
const whole = (tokens) => counted(tokens).trim();

/** Asks and waits for the whole counted answer. */
async function complete(page, tokens, word = marker()) {
  await ask(page, question(tokens, { word }));
  await until('the answer', async () => (await answer(page)).trim() === whole(tokens));
  await page.waitForSelector('#send:visible');
}

/** Opens the list, and returns the titles in it. */
async function titles(page) {
  if (!(await page.isVisible('#conversations'))) await page.click('#show-conversations');
  await page.waitForFunction(() => document.querySelector('#conversations li, #conversations .none:not([hidden])'));
  return page.locator('#conversations .title').allTextContents();
}

/** Waits until the list begins with these titles. They are written while the page is used. */
function listed(page, ...expected) {
  return until(`the list has ${expected}`, async () => {
    if (await page.isVisible('#conversations')) await page.click('#conversations .close');
    const found = await titles(page);
    return expected.every((title, at) => found[at]?.startsWith(title));
  });
}

describe('conversations', () => {
  test('are listed, opened and continued', async () => {
    const { page, wrong, close } = await chat();
    const [first, second] = [marker(), marker()];
    await complete(page, 5, first);
    await complete(page, 6, first);
    const last = await meter(page, 'id');
    await page.click('#new');
    await complete(page, 7, second);
    await listed(page, second, first);
    await page.click(`#conversations .open:has-text("${first}")`);
    await page.waitForSelector('#conversations', { state: 'hidden' });
    assert.equal(await page.locator('#turns article').count(), 2);
    assert.equal((await page.textContent('#turns article:first-child .markdown')).trim(), whole(5));
    assert.equal((await answer(page)).trim(), whole(6));
    assert.equal(new URL(page.url()).hash, `#${last}`);
    assert.equal(await page.isEnabled('#share'), true);
    await complete(page, 8);
    const object = await (await fetch(`${gateway}/v1/responses/${await meter(page, 'id')}`)).json();
    assert.equal(object.previous_response_id, last);
    await listed(page, first, second);
    assert.equal((await titles(page)).length, 2, 'a conversation that goes on is no new one');
    assert.deepEqual(wrong, []);
    await close();
  });

  test('are renamed, deleted and put back', async () => {
    const { page, wrong, close } = await chat();
    const [first, second] = [marker(), marker()];
    await complete(page, 3, first);
    await page.click('#new');
    await complete(page, 4, second);
    await listed(page, second, first);
    await page.click(`#conversations li:has-text("${first}") [aria-label^="Rename"]`);
    await page.keyboard.press('Escape');
    assert.equal(await page.isVisible('#conversations'), true, 'Escape ends the renaming alone');
    await page.click(`#conversations li:has-text("${first}") [aria-label^="Rename"]`);
    await page.waitForSelector('#conversations input:focus');
    await page.keyboard.type('Rivers');
    await page.keyboard.press('Enter');
    await page.waitForSelector('#conversations [aria-label="Rename: Rivers"]:focus');

    await page.click('#conversations [aria-label="Delete: Rivers"]');
    await page.waitForSelector('#conversations .deleted');
    assert.deepEqual((await titles(page)).map((title) => title.slice(0, second.length)), [second]);
    await page.keyboard.press('Enter');
    await page.waitForSelector('#conversations .open:focus .title:text-is("Rivers")');
    // The one that is shown.
    await page.click('#conversations li:has([aria-current]) [aria-label^="Delete"]');
    await page.waitForSelector('#turns article', { state: 'detached' });
    assert.equal(new URL(page.url()).hash, '');
    await page.keyboard.press('Escape');
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll('#model option').length > 0);
    assert.deepEqual(await titles(page), ['Rivers']);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('go on while another one is shown', async () => {
    const { page, wrong, close } = await chat();
    const word = marker();
    await ask(page, question(400, { word, tbt: '8ms' }), 'ws');
    await shown(page, 20);
    await page.click('#new');
    await complete(page, 5);
    await titles(page);
    await page.click(`#conversations .open:has-text("${word}")`);
    await until('the rest', async () => (await answer(page)).trim() === whole(400));
    await state(page, 'done');
    assert.equal((await upstreamSaw(word)).length, 1);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('outlive a gateway that keeps nothing', async () => {
    const own = await OwnGateway.start('memory');
    const { page, wrong, close } = await chat({ expected: CUT }, `${own.url}/`);
    const word = marker();
    await complete(page, 5, word);
    await ask(page, question(5000, { tbt: '3ms' }));
    await shown(page, 100);
    await own.kill();
    await own.begin();
    await state(page, 'failed');
    const part = (await answer(page)).trim();
    await listed(page, word);
    await page.keyboard.press('Escape');
    await page.reload();
    await page.waitForSelector('.error:visible');
    assert.equal((await answer(page)).trim(), part, 'the part that had arrived');
    assert.equal((await page.textContent('#turns article:first-child .markdown')).trim(), whole(5));
    assert.match(await page.textContent('#turns article:last-child .error'), /not kept/);
    await complete(page, 6);
    assert.deepEqual((await upstreamSaw(word)).at(-1).body.messages.map(({ role }) => role), ['user', 'assistant', 'user', 'assistant', 'user']);
    assert.deepEqual(wrong, []);
    await close();
    await own.close();
  });

  test('that two tabs continue differently become two', async () => {
    const { page, context, wrong, close } = await chat();
    const word = marker();
    await complete(page, 3, word);
    await listed(page, word);
    await page.keyboard.press('Escape');
    const other = await chat({ context }, page.url());
    await until('the other tab', async () => (await answer(other.page)).trim() === whole(3));
    await complete(page, 4);
    await listed(page, word);
    await complete(other.page, 5);
    await listed(other.page, word, word);
    const turns = [];
    for (const at of [0, 1]) {
      await titles(other.page);
      await other.page.click(`#conversations .open >> nth=${at}`);
      await other.page.waitForSelector('#conversations', { state: 'hidden' });
      turns.push((await answer(other.page)).trim());
    }
    assert.deepEqual(turns.toSorted(), [whole(4), whole(5)].toSorted());
    assert.deepEqual([...wrong, ...other.wrong], []);
    await close();
  });

  test('are not kept where the browser allows no storage, and the page works', async () => {
    const context = await (await open()).newContext();
    await context.addInitScript(() => Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('not here', 'SecurityError'); } }));
    const { page, wrong, close } = await chat({ context });
    await complete(page, 3);
    await complete(page, 4);
    assert.deepEqual(await titles(page), []);
    assert.match(await page.textContent('#conversations .none'), /does not allow/);
    assert.deepEqual(wrong, []);
    await close();
    await context.close();
  });

  const SIZES = { desktop: { viewport: { width: 1280, height: 860 } }, phone: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true } };
  for (const [size, settings] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      test(`${size}, ${colorScheme}: axe has no serious finding in the list`, async () => {
        const { page, wrong, close } = await chat({ ...settings, colorScheme, reducedMotion: 'reduce' });
        for (const input of ['Write a short poem about rivers. [[tokens=5]]', 'Which European rivers flow into the Black Sea, and which of them are navigable? [[tokens=5]]']) {
          await ask(page, input);
          await state(page, 'done');
          await page.waitForSelector('.again:visible');
          if (input.startsWith('Write')) await page.click('#new');
        }
        await listed(page, 'Which', 'Write');
        assert.deepEqual(await findings(page), []);
        await picture(page, `${size}-${colorScheme}-conversations`);
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true);
        await page.keyboard.press('Escape');
        assert.equal(await page.evaluate(() => document.activeElement.id), 'show-conversations');
        assert.deepEqual(wrong, []);
        await close();
      });
    }
  }
});
