// Pictures of questions in Chromium: chosen, pasted, dropped, sent and kept.
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { ask, chat, findings, picture, shut, state } from './browser.mjs';
import { marker, question, until, upstreamSaw } from './surroundings.mjs';

after(shut);

/** Puts a picture of this size on the page, by the event that a paste or a drop causes. */
function give(page, way, { name = 'a.png', width = 40, height = 20, type = 'image/png', text = null } = {}) {
  return page.evaluate(async ({ way, name, width, height, type, text }) => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext('2d');
    context.fillStyle = '#27a';
    context.fillRect(0, 0, width, height / 2);
    const blob = type === 'image/png' ? await new Promise((done) => { canvas.toBlob(done, type); }) : new Blob(['x']);
    const data = new DataTransfer();
    data.items.add(new File([blob], name, { type }));
    if (text) data.setData('text/plain', text);
    const target = document.getElementById('question');
    if (way === 'paste') target.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
    else target.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
  }, { way, name, width, height, type, text });
}

const count = (page) => page.locator('#pictures li').count();

describe('pictures', () => {
  for (const way of ['paste', 'drop']) {
    test(`by ${way} go with the question, small enough, and stay with the conversation`, async () => {
      const { page, wrong, close } = await chat();
      await give(page, way, { width: 4000, height: 1000 });
      await page.waitForSelector('#pictures canvas');
      assert.deepEqual(await findings(page), []);
      await picture(page, `picture-${way}`);
      const word = marker();
      await ask(page, question(5, { word }));
      await state(page, 'done');
      assert.equal(await count(page), 0);
      const [{ body }] = await upstreamSaw(word);
      const sent = body.messages.at(-1).content;
      assert.equal(sent[0].text.includes(word), true);
      const url = sent[1].image_url.url;
      assert.match(url, /^data:image\/jpeg;base64,/);
      const size = await page.evaluate(async (data) => {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        const bitmap = await createImageBitmap(new Blob([bytes], { type: 'image/jpeg' }));
        return [bitmap.width, bitmap.height];
      }, url.split(',')[1]);
      assert.deepEqual(size, [1568, 392]);
      await page.waitForSelector('.question canvas');
      await picture(page, `picture-${way}-asked`);
      await page.reload();
      await page.waitForFunction(() => document.querySelector('.question canvas')?.width > 1);
      assert.deepEqual(wrong, []);
      await close();
    });
  }

  test('are chosen and removed with the keyboard, four at most', async () => {
    const { page, wrong, close } = await chat();
    for (let at = 1; at <= 4; at += 1) {
      await give(page, 'drop');
      await until('the picture', async () => (await count(page)) === at);
    }
    await give(page, 'drop');
    await page.waitForSelector('#warning:visible');
    assert.match(await page.textContent('#warning'), /4 pictures at most/);
    await page.focus('#pictures li:last-child button');
    await page.keyboard.press('Enter');
    assert.equal(await count(page), 3);
    assert.equal(await page.evaluate(() => document.activeElement.id), 'question');
    assert.equal(await page.getAttribute('#add-picture', 'aria-label'), 'Add a picture');
    assert.deepEqual(wrong, []);
    await close();
  });

  test('that are none are refused with a reason, and text is pasted as text', async () => {
    const { page, wrong, close } = await chat();
    await give(page, 'drop', { name: 'notes.pdf', type: 'application/pdf' });
    await page.waitForSelector('#warning:visible');
    assert.match(await page.textContent('#warning'), /notes\.pdf is no picture/);
    await give(page, 'paste', { text: 'a text' });
    assert.equal(await count(page), 0);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('are not offered for a model that takes none', async () => {
    const { page, wrong, context, close } = await chat();
    await context.route('**/v1/models', (route) => route.fulfill({
      json: { object: 'list', data: [{ id: 'blind', object: 'model', architecture: { input_modalities: ['text'] } }, { id: 'simulator', object: 'model' }] },
    }));
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll('#model option').length === 2);
    await page.selectOption('#model', 'simulator');
    assert.equal(await page.isVisible('#add-picture'), true);
    await page.selectOption('#model', 'blind');
    assert.equal(await page.isVisible('#add-picture'), false);
    await give(page, 'drop');
    await page.waitForSelector('#warning:visible');
    assert.match(await page.textContent('#warning'), /takes no pictures/);
    assert.deepEqual(wrong, []);
    await close();
  });
});
