// The chat page in Chromium while its gateway is killed, restarted and replaced.
import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { after, describe, test } from 'node:test';
import { answer, ask, chat, meter, picture, shown, shut, state } from './browser.mjs';
import { badRoad } from './chaos.mjs';
import { OwnGateway } from './own_gateway.mjs';
import { LOG, RECONNECTS, scriptedGateway } from './scripted_gateway.mjs';
import { counted, marker, question, until, upstreamSaw } from './surroundings.mjs';

after(async () => {
  await Promise.all(OwnGateway.all.map((gateway) => gateway.close()));
  await shut();
});

const TRANSPORTS = ['ws', 'sse', 'eventsource'];
/** Chromium's console messages about connections that were cut, and about streams that are not kept. */
const CUT = /Failed to load resource|net::ERR_|WebSocket connection to .* failed/;
const whole = (tokens) => counted(tokens).trim();

async function visit(gateway, context = null, at = `${gateway.url}/`) {
  const visited = await chat({ context, expected: CUT }, at);
  await watchText(visited.page);
  return visited;
}

/** Records each change of an answer after which its text does not begin with the text before, the longest pause, and each note that is shown. */
function watchText(page) {
  return page.evaluate(() => {
    const texts = new Map();
    window.shrunk = [];
    window.notes = [];
    window.changes = 0;
    window.pause = 0;
    let last = performance.now();
    new MutationObserver(() => {
      window.changes += 1;
      for (const article of [...texts.keys(), ...document.querySelectorAll('#turns article')]) {
        const text = article.isConnected ? article.querySelector('.markdown').textContent.trim() : '';
        const before = texts.get(article) ?? '';
        if (text !== before) {
          window.pause = before === '' ? 0 : Math.max(window.pause, performance.now() - last);
          last = performance.now();
        }
        if (!text.startsWith(before)) window.shrunk.push([before.slice(-80), text.slice(-80)]);
        texts.set(article, text);
        const note = article.querySelector('.note');
        if (note && !note.hidden && window.notes.at(-1) !== note.textContent) window.notes.push(note.textContent);
      }
    }).observe(document.getElementById('turns'), { childList: true, characterData: true, subtree: true, attributes: true });
  });
}

async function assertNeverShorter(page) {
  const { shrunk, changes } = await page.evaluate(() => ({ shrunk: window.shrunk, changes: window.changes }));
  assert.deepEqual(shrunk, []);
  assert.ok(changes > 1, `${changes} changes were seen`);
}

/** The text is a part of the counted answer, whole words only, and as long as it was before. */
function assertPart(text, before) {
  assert.ok(whole(5000).startsWith(text), `not a part: …${text.slice(-80)}`);
  assert.ok(text.startsWith(before), 'the text is shorter than before');
  assert.ok(text.length < whole(5000).length);
}

function failure(page) {
  return page.textContent('#turns article:last-child .error');
}

function press(page, label) {
  return page.click(`#turns article:last-child .error button:text-is("${label}")`);
}

async function killAndRestart(gateway, downFor = 1000) {
  await gateway.kill();
  await pause(downFor);
  await gateway.begin();
}

describe('kill -9 in mid-answer with a disk store', () => {
  for (const transport of TRANSPORTS) {
    test(`over ${transport} keeps the text, says what happened, and the conversation goes on`, async () => {
      const gateway = await OwnGateway.start('disk');
      const { page, wrong, close } = await visit(gateway);
      const word = marker();
      await ask(page, question(5, { word }), transport);
      await state(page, 'done');
      const first = await meter(page, 'id');
      await ask(page, question(5000, { tbt: '3ms' }));
      await shown(page, 100);
      await gateway.kill();
      const before = (await answer(page)).trim();
      // What was on its way to the page when the gateway ended may still follow.
      await page.waitForSelector('#turns article:last-child .note:visible', { timeout: 10_000 });
      await picture(page, `restart-${transport}-reconnecting`);
      await pause(1000);
      await gateway.begin();
      await state(page, 'failed');
      assertPart((await answer(page)).trim(), before);
      assert.match(await failure(page), /restarted in the middle/);
      assert.match(await failure(page), /producer_lost/);
      assert.equal(await page.isVisible('#turns article:last-child .note'), false);
      await until('the buttons are in view', () => page.evaluate(() => {
        const button = document.querySelector('#turns article:last-child .error button').getBoundingClientRect();
        return button.bottom <= document.getElementById('scroll').getBoundingClientRect().bottom;
      }));
      assert.match(await meter(page, 'events'), /none missing|after a reset/);
      await assertNeverShorter(page);
      await picture(page, `restart-${transport}-failed`);

      // "Continue" sends what was received of the answer. The first answer is referred to, and found on disk.
      const part = (await answer(page)).trim();
      await press(page, 'Continue');
      await page.waitForFunction(() => document.querySelectorAll('#turns article').length === 3);
      await state(page, 'done');
      const continued = (await upstreamSaw(word)).at(-1);
      const roles = continued.body.messages.map(({ role }) => role);
      assert.deepEqual(roles, ['user', 'assistant', 'user', 'assistant', 'user']);
      assert.equal(continued.body.messages[3].content.trim(), part);
      const object = await (await fetch(`${gateway.url}/v1/responses/${await meter(page, 'id')}`)).json();
      assert.equal(object.previous_response_id, first);
      // The failed answer stays, its buttons do not.
      assert.equal(await page.locator('.error:visible').count(), 1);
      assert.equal(await page.locator('.error button:visible').count(), 0);
      await ask(page, question(6));
      await until('the last answer', async () => (await answer(page)).trim() === whole(6));
      assert.deepEqual(wrong, []);
      await close();
      await gateway.close();
    });
  }

  test('"Try again" asks the same question again', async () => {
    const gateway = await OwnGateway.start('disk');
    const { page, wrong, close } = await visit(gateway);
    const word = marker();
    await ask(page, question(300, { word, tbt: '10ms' }), 'ws');
    await shown(page, 30);
    await killAndRestart(gateway);
    await state(page, 'failed');
    await assertNeverShorter(page);
    await press(page, 'Try again');
    await state(page, 'done');
    assert.equal((await answer(page)).trim(), whole(300));
    assert.equal(await page.isVisible('.error'), false);
    assert.equal((await upstreamSaw(word)).length, 2);
    assert.deepEqual(wrong, []);
    await close();
    await gateway.close();
  });

  for (const transport of TRANSPORTS) {
    test(`two tabs and a reload over ${transport} show the same ending`, async () => {
      const gateway = await OwnGateway.start('disk');
      const { page, context, wrong, close } = await visit(gateway);
      await ask(page, question(5000, { tbt: '3ms' }), transport);
      await shown(page, 60);
      const second = await visit(gateway, context, page.url());
      await shown(second.page, 120);
      const before = await Promise.all([page, second.page].map(async (each) => (await answer(each)).trim()));
      await killAndRestart(gateway);
      for (const [at, each] of [page, second.page].entries()) {
        await state(each, 'failed');
        assertPart((await answer(each)).trim(), before[at]);
        assert.match(await failure(each), /restarted in the middle/);
        await assertNeverShorter(each);
      }
      const asked = await page.textContent('.question p');
      await page.reload();
      await page.waitForSelector('.error:visible');
      assert.equal(await page.textContent('.question p'), asked);
      const text = (await answer(page)).trim();
      assert.ok(whole(5000).startsWith(text) && text.length > 100);
      await ask(page, question(4));
      await until('the next answer', async () => (await answer(page)).trim() === whole(4));
      assert.deepEqual([...wrong, ...second.wrong], []);
      await close();
      await gateway.close();
    });
  }
});

describe('a rolling restart in mid-answer', () => {
  for (const transport of TRANSPORTS) {
    test(`over ${transport} is not visible`, async () => {
      const gateway = await OwnGateway.start('disk');
      const { page, wrong, close } = await visit(gateway);
      const word = marker();
      await ask(page, question(1500, { word, tbt: '5ms' }), transport);
      await shown(page, 60);
      await gateway.begin();
      await state(page, 'done');
      assert.equal((await answer(page)).trim(), whole(1500));
      assert.match(await meter(page, 'events'), /none missing/);
      // A note appears only where the text stood still for longer than a replacement takes, as on a busy machine.
      const { notes, pause: longest } = await page.evaluate(() => ({ notes: window.notes, pause: window.pause }));
      if (longest < 2500) assert.deepEqual(notes, []);
      assert.equal(await page.isVisible('.error'), false);
      await assertNeverShorter(page);
      await ask(page, question(4));
      await until('the next answer', async () => (await answer(page)).trim() === whole(4));
      assert.equal((await upstreamSaw(word)).length, 2, 'the conversation goes on at the next process');
      assert.deepEqual(wrong, []);
      await close();
      await gateway.close();
    });
  }
});

describe('an answer that breaks off', () => {
  test('shows no marks that nothing closes', async () => {
    const text = 'It is **bold';
    const gateway = await scriptedGateway([{ events: [...LOG.slice(0, 1), { ...LOG[1], delta: text }], then: 'close' }, { status: 404 }]);
    const { page, wrong, close } = await visit(gateway);
    await ask(page, 'x', 'sse');
    await state(page, 'failed');
    await page.waitForSelector('.error:visible');
    assert.equal(await answer(page), 'It is bold');
    await assertNeverShorter(page);
    assert.deepEqual(wrong, []);
    await close();
    gateway.close();
  });
});

describe('a restart with the memory store', () => {
  for (const transport of TRANSPORTS) {
    test(`over ${transport} keeps the text and says that the rest is gone`, async () => {
      const gateway = await OwnGateway.start('memory');
      const { page, wrong, close } = await visit(gateway);
      const word = marker();
      await ask(page, question(5, { word }), transport);
      await state(page, 'done');
      await ask(page, question(5000, { tbt: '3ms' }));
      await shown(page, 100);
      const before = (await answer(page)).trim();
      await killAndRestart(gateway);
      await state(page, 'failed');
      assertPart((await answer(page)).trim(), before);
      assert.match(await failure(page), /has not kept this answer/);
      await assertNeverShorter(page);
      // Nothing is left of the first answer either: the conversation is sent.
      await ask(page, question(6));
      await until('the next answer', async () => (await answer(page)).trim() === whole(6));
      const sent = (await upstreamSaw(word)).at(-1).body.messages.map(({ role }) => role);
      assert.deepEqual(sent, ['user', 'assistant', 'user', 'assistant', 'user']);
      assert.deepEqual(wrong, []);
      await close();
      await gateway.close();
    });
  }
});

/** Whether an answer is complete afterwards, by the name of the case. */
const ON_SCREEN = new Map([
  ['events that come again are applied once', true],
  ['a reset to an earlier number applies', true],
  ['a reset that a crash made shorter keeps the longer text', false],
  ['a reset after a crash brings what was not received', false],
  ['a stream that ended in the meantime is completed from its object', true],
  ['a stream that a crash ended in the meantime keeps the longer text', false],
  ['a lost node ends the stream', false],
]);

describe('a stream that changed while the page was away', () => {
  for (const [name, isComplete] of ON_SCREEN) {
    for (const transport of TRANSPORTS) {
      test(`over ${transport}: ${name}`, async () => {
        const { connections, object, expected } = RECONNECTS[name];
        const gateway = await scriptedGateway(connections, { response: object });
        const { page, wrong, close } = await visit(gateway);
        await ask(page, 'x', transport);
        await state(page, isComplete ? 'done' : 'failed');
        await until('the whole text', async () => (await answer(page)) === expected.text);
        assert.equal(await page.isVisible('.error'), !isComplete);
        await assertNeverShorter(page);
        assert.deepEqual(wrong, []);
        await close();
        gateway.close();
      });
    }
  }
});

// Side by side, since each waits for 20 s.
describe('a laptop that sleeps for 20 s', { concurrency: true }, () => {
  for (const transport of TRANSPORTS) {
    test(`reads on over ${transport} when it wakes`, async () => {
      const gateway = await OwnGateway.start('disk');
      const road = await badRoad(gateway.url);
      const { page, context, wrong, close } = await visit({ url: road.url });
      await ask(page, question(2000, { tbt: '10ms' }), transport);
      await shown(page, 60);
      const devtools = await context.newCDPSession(page);
      await devtools.send('Network.enable');
      const network = (offline) => devtools.send('Network.emulateNetworkConditions', { offline, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
      await devtools.send('Page.setWebLifecycleState', { state: 'frozen' });
      await network(true);
      road.cutAll();
      await pause(20_000);
      await network(false);
      await devtools.send('Page.setWebLifecycleState', { state: 'active' });
      await state(page, 'done');
      assert.equal((await answer(page)).trim(), whole(2000));
      assert.match(await meter(page, 'events'), /none missing/);
      await assertNeverShorter(page);
      assert.deepEqual(wrong, []);
      await close();
      await road.close();
      await gateway.close();
    });
  }
});
