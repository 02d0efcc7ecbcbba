// The chat page in Chromium, as people use it.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, describe, test } from 'node:test';
import { answer, ask, chat, meter, picture, shown, shut, state, visit } from './browser.mjs';
import { badRoad } from './chaos.mjs';
import { aborted, counted, gateway, marker, question, until, upstreamSaw } from './surroundings.mjs';

after(shut);

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const NAMED = [['ws', 'WebSocket'], ['sse', 'fetch'], ['eventsource', 'EventSource']];
const TRANSPORTS = [...NAMED, ['auto', 'WebSocket']];
/** What Chromium itself writes when a connection ends that somebody ended. */
const CUT = /Failed to load resource|net::ERR_|WebSocket connection to .* failed/;
const whole = (tokens) => counted(tokens).trim();

/** Serious findings of axe, one a line. */
async function findings(page) {
  const { violations } = await page.evaluate(`${axe};axe.run(document, { resultTypes: ['violations'] })`);
  return violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
    .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html).join(' | ')}`);
}

describe('asking', () => {
  for (const [transport, name] of TRANSPORTS) {
    test(`an answer over ${transport} is shown whole, and goes on as a conversation`, async () => {
      const { page, wrong, close } = await chat();
      const word = marker();
      await ask(page, question(60, { word, tbt: '5ms' }), transport);
      await state(page, 'done');
      assert.equal((await answer(page)).trim(), whole(60));
      assert.equal(await meter(page, 'transport'), name);
      assert.match(await meter(page, 'events'), /^\d+, none missing$/);
      assert.match(await meter(page, 'first'), /^\d+ ms$|^\d+\.\d s$/);
      assert.equal(await meter(page, 'reconnects'), '0');
      assert.match(page.url(), /#resp_/);
      await ask(page, question(7));
      await page.waitForFunction(() => document.querySelectorAll('#turns article').length === 2);
      await state(page, 'done');
      await until('the second answer', async () => (await answer(page)).trim() === whole(7));
      assert.equal((await upstreamSaw(word)).length, 2, 'the second question went up with the first');
      assert.deepEqual(wrong, []);
      await close();
    });
  }

  test('Markdown is shown as what it means', async () => {
    const { page, wrong, close } = await chat();
    await ask(page, 'Show me everything you can do, please, with all the parts that an answer may have.');
    await state(page, 'done');
    const seen = await page.evaluate(() => {
      const markdown = document.querySelector('.markdown');
      const count = (selector) => markdown.querySelectorAll(selector).length;
      return {
        tables: count('table'), headings: count('h3, h4, h5'), code: count('.code pre'), lists: count('ol > li'), nested: count('ol ul li'), strong: count('strong'), images: count('img'),
        links: [...markdown.querySelectorAll('a')].map((link) => [link.protocol, link.rel]), text: markdown.textContent,
      };
    });
    assert.ok(seen.tables >= 1 && seen.headings >= 2 && seen.code >= 1 && seen.lists >= 4 && seen.nested >= 2 && seen.strong >= 2, JSON.stringify(seen));
    assert.equal(seen.images, 0);
    for (const [protocol, rel] of seen.links) assert.ok(/^(https?|mailto):$/.test(protocol) && rel.includes('noopener'));
    assert.deepEqual(wrong, []);
    await close();
  });

  test('code can be copied', async () => {
    const { page, context, wrong, close } = await chat();
    await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: gateway });
    await ask(page, 'Show me some code.');
    await state(page, 'done');
    await page.click('.code button >> nth=0');
    const code = await page.textContent('.code pre >> nth=0');
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), code);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('a question is asked again in its own place', async () => {
    const { page, wrong, close } = await chat();
    const word = marker();
    await ask(page, question(5, { word }));
    await state(page, 'done');
    const first = await meter(page, 'id');
    await page.click('.again');
    await page.waitForFunction((first) => !['–', first].includes(document.getElementById('m-id').textContent), first);
    await state(page, 'done');
    assert.equal((await upstreamSaw(word)).length, 2);
    assert.equal(await page.locator('#turns article').count(), 1);
    await page.click('#new');
    assert.equal(await page.locator('#turns article').count(), 0);
    assert.equal(new URL(page.url()).hash, '');
    assert.deepEqual(wrong, []);
    await close();
  });
});

describe('a connection that breaks', () => {
  for (const [transport] of NAMED) {
    test(`"Cut the connection" over ${transport} loses nothing`, async () => {
      const { page, wrong, close } = await chat({ expected: CUT });
      await ask(page, question(200, { tbt: '8ms' }), transport);
      for (const tokens of [20, 70, 120]) {
        await shown(page, tokens);
        await page.click('#cut');
      }
      await state(page, 'done');
      assert.equal((await answer(page)).trim(), whole(200));
      assert.equal(await meter(page, 'reconnects'), '3');
      assert.match(await meter(page, 'events'), /none missing/);
      assert.deepEqual(wrong, []);
      await close();
    });

    test(`a bad road over ${transport} loses nothing`, async () => {
      const road = await badRoad(gateway);
      const { page, wrong, close } = await chat({ expected: CUT }, `${road.url}/`);
      const word = marker();
      // Where it breaks is counted on each connection; those that brought the page are old and over these marks.
      await until('the page has come', async () => (await page.evaluate(() => document.readyState)) === 'complete');
      road.cutAll();
      road.cuts.push(2300, 3100, 2777, 5000);
      await ask(page, question(250, { word, tbt: '4ms' }), transport);
      await state(page, 'done');
      assert.equal((await answer(page)).trim(), whole(250));
      assert.ok(road.made >= 3, `${road.made} cuts`);
      assert.equal((await upstreamSaw(word)).length, 1);
      assert.match(await meter(page, 'events'), /none missing/);
      assert.deepEqual(wrong, []);
      await close();
      await road.close();
    });

    test(`a reload in the middle over ${transport} resumes`, async () => {
      const { page, wrong, close } = await chat({ expected: CUT });
      const word = marker();
      const asked = question(250, { word, tbt: '8ms' });
      await ask(page, asked, transport);
      await shown(page, 30);
      await page.reload();
      await shown(page, 60);
      await page.reload();
      await state(page, 'done');
      assert.equal((await answer(page)).trim(), whole(250));
      assert.equal(await page.textContent('.question p'), asked);
      assert.equal((await upstreamSaw(word)).length, 1);
      assert.match(await meter(page, 'events'), /none missing/);
      assert.deepEqual(wrong, []);
      await close();
    });
  }

  test('where upgrades are refused the page goes on over SSE', async () => {
    const road = await badRoad(gateway, { upgrades: 'refuse' });
    const { page, wrong, close } = await chat({ expected: CUT }, `${road.url}/`);
    await ask(page, question(30, { tbt: '3ms' }), 'auto');
    await state(page, 'done');
    assert.equal((await answer(page)).trim(), whole(30));
    assert.equal(await meter(page, 'transport'), 'fetch');
    assert.deepEqual(wrong, []);
    await close();
    await road.close();
  });

  for (const [transport] of NAMED) {
    test(`offline and online again over ${transport}`, async () => {
      const road = await badRoad(gateway);
      const { page, context, wrong, close } = await chat({ expected: CUT }, `${road.url}/`);
      await ask(page, question(300, { tbt: '10ms' }), transport);
      await shown(page, 30);
      await context.setOffline(true);
      road.cutAll();
      await page.waitForFunction(() => ['offline', 'waiting'].includes(document.getElementById('state').dataset.state));
      assert.equal(await page.isVisible('.note'), true);
      await context.setOffline(false);
      await state(page, 'done');
      assert.equal((await answer(page)).trim(), whole(300));
      assert.match(await meter(page, 'events'), /none missing/);
      assert.deepEqual(wrong, []);
      await close();
      await road.close();
    });
  }
});

describe('more than one reader', () => {
  for (const [transport] of NAMED) {
    test(`a second tab watches the same answer over ${transport}`, async () => {
      const { page, context, wrong, close } = await chat();
      const word = marker();
      await ask(page, question(5, { word }), transport);
      await state(page, 'done');
      await ask(page, question(150, { word, tbt: '8ms' }));
      await shown(page, 20);
      const second = await chat({ context }, page.url());
      await shown(second.page, 40);
      assert.equal(await second.page.evaluate(() => document.getElementById('state').dataset.state), 'streaming', 'it watches live');
      await Promise.all([state(page, 'done'), state(second.page, 'done')]);
      assert.equal((await answer(second.page)).trim(), whole(150));
      assert.equal((await answer(page)).trim(), whole(150));
      // The conversation before it came from the gateway too.
      assert.equal(await second.page.locator('#turns article').count(), 2);
      assert.equal((await second.page.textContent('#turns article:first-child .markdown')).trim(), whole(5));
      assert.equal((await upstreamSaw(word)).length, 2);
      assert.deepEqual([...wrong, ...second.wrong], []);
      await close();
    });
  }

  test('a link to an answer that is not kept says so', async () => {
    const { page, wrong, close } = await chat({ expected: /404/ }, `${gateway}/#resp_000000000000000000000000`);
    await page.waitForSelector('.error');
    assert.match(await page.textContent('.error'), /not kept any more/);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('eight answers at once over one origin', async () => {
    const { page, context, wrong, close } = await chat();
    const pages = [page];
    for (let more = 0; more < 7; more += 1) pages.push((await chat({ context })).page);
    // An HTTP/1.1 origin has six connections: more EventSources would wait for ever, so two of these are WebSockets.
    await Promise.all(pages.map((each, at) => ask(each, question(60 + at, { tbt: '10ms' }), at < 5 ? 'eventsource' : 'ws')));
    await Promise.all(pages.map((each) => state(each, 'done')));
    for (const [at, each] of pages.entries()) assert.equal((await answer(each)).trim(), whole(60 + at));
    assert.deepEqual(wrong, []);
    await close();
  });
});

describe('a gateway that forgets', () => {
  for (const [transport] of NAMED) {
    test(`is told the conversation again over ${transport}`, async () => {
      const { page, wrong, close } = await chat({ expected: /404/ });
      const word = marker();
      await ask(page, question(5, { word }), transport);
      await state(page, 'done');
      const forgotten = await fetch(`${gateway}/v1/responses/${await meter(page, 'id')}`, { method: 'DELETE' });
      assert.equal(forgotten.status, 200);
      await ask(page, question(6));
      await until('the second answer', async () => (await answer(page)).trim() === whole(6));
      const [, second] = await upstreamSaw(word);
      assert.deepEqual(second.body.messages.map(({ role }) => role), ['user', 'assistant', 'user']);
      assert.deepEqual(wrong, []);
      await close();
    });
  }
});

describe('stopping', () => {
  for (const [transport] of NAMED) {
    test(`Stop over ${transport} reaches the upstream, and keeps what came`, async () => {
      const { page, wrong, close } = await chat({ expected: CUT });
      const word = marker();
      await ask(page, question(100_000, { word, tbt: '5ms' }), transport);
      await shown(page, 10);
      await page.keyboard.press('Escape');
      await aborted(word);
      await state(page, 'aborted');
      assert.ok(whole(100_000).startsWith((await answer(page)).trim().slice(0, 200)));
      assert.equal(await page.textContent('.note'), 'Stopped.');
      // The conversation goes on from there.
      await ask(page, question(4));
      await until('the next answer', async () => (await answer(page)).trim() === whole(4));
      assert.deepEqual(wrong, []);
      await close();
    });

    test(`Stop over ${transport} before the first token reaches the upstream`, async () => {
      const { page, wrong, close } = await chat({ expected: CUT });
      const word = marker();
      await ask(page, question(5, { word, more: 'ttft=1h' }), transport);
      await until('the question is with the upstream', async () => (await upstreamSaw(word)).length === 1);
      await page.click('#stop');
      await aborted(word);
      await page.waitForFunction(() => document.querySelector('.note')?.textContent.startsWith('Stopped'));
      assert.deepEqual(wrong, []);
      await close();
    });
  }
});

describe('errors', () => {
  test('are told in words, with what came before', async () => {
    const { page, wrong, close } = await chat();
    await ask(page, 'x [[fault=cut after=5 tokens=10 text=count]]');
    await page.waitForSelector('.error');
    assert.match(await page.textContent('.error'), /broke off in the middle/);
    assert.equal((await answer(page)).trim(), whole(5));
    assert.equal(await page.isVisible('.error button'), true);
    await picture(page, 'error');
    assert.deepEqual(await findings(page), []);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('a question that failed can be tried again', async () => {
    const { page, wrong, close } = await chat();
    await ask(page, `x [[tokens=6 text=count fault=cut after=1 times=1 id=${marker()}]]`);
    await page.click('.error button');
    await state(page, 'done');
    assert.equal((await answer(page)).trim(), whole(6));
    assert.equal(await page.isVisible('.error'), false);
    assert.deepEqual(wrong, []);
    await close();
  });
});

describe('for everybody', () => {
  const SIZES = { desktop: { viewport: { width: 1280, height: 860 } }, phone: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true } };
  for (const [size, settings] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      test(`${size}, ${colorScheme}: no serious finding, and pictures`, async () => {
        const { page, wrong, close } = await chat({ ...settings, colorScheme, reducedMotion: 'reduce' });
        assert.deepEqual(await findings(page), []);
        await picture(page, `${size}-${colorScheme}-welcome`);
        await ask(page, 'What can you do, and how do your answers reach me?');
        await page.waitForFunction(() => Number(document.getElementById('m-last').textContent) > 120);
        assert.deepEqual(await findings(page), []);
        await picture(page, `${size}-${colorScheme}-streaming`);
        await page.evaluate(() => document.getElementById('cut').click());
        await state(page, 'done');
        if (size === 'phone') await page.click('#show-wire');
        assert.equal(await page.isVisible('#wire'), true);
        await page.evaluate(() => { document.getElementById('scroll').scrollTop = 0; });
        await page.waitForSelector('#latest:visible');
        assert.deepEqual(await findings(page), []);
        await picture(page, `${size}-${colorScheme}-done`);
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, 'nothing sticks out');
        assert.deepEqual(wrong, []);
        await close();
      });
    }
  }

  test('the theme can be switched, and is remembered', async () => {
    const { page, wrong, close } = await chat({ colorScheme: 'light' });
    const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await paper();
    await page.click('#theme');
    const dark = await paper();
    assert.notEqual(dark, light);
    await page.reload();
    assert.equal(await paper(), dark);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('by keyboard alone', async () => {
    // Where fingers point nothing has the focus at first, since that would open the screen's keyboard.
    const { page, wrong, close } = await chat({ reducedMotion: 'reduce', hasTouch: true, isMobile: true, viewport: { width: 1280, height: 860 } });
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'question');
    await page.keyboard.type(question(5));
    await page.keyboard.press('Enter');
    await state(page, 'done');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'question', 'the next question can be typed at once');
    const reached = new Set();
    for (let step = 0; step < 25; step += 1) {
      await page.keyboard.press('Tab');
      const { id, outlined } = await page.evaluate(() => {
        const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
        const { id, className, nodeName } = document.activeElement;
        return { id: id || className || nodeName, outlined: document.activeElement === document.body || (outlineStyle !== 'none' && outlineWidth !== '0px') };
      });
      if (id !== 'question') assert.ok(outlined, `${id} shows that it has the focus`);
      reached.add(id);
    }
    for (const id of ['theme', 'new', 'scroll', 'question', 'model', 'transport']) assert.ok(reached.has(id), `${id} was not reached: ${[...reached]}`);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('a screen reader hears sentences, and the end', async () => {
    const { page, wrong, close } = await chat();
    await page.evaluate(() => {
      window.heard = [];
      new MutationObserver(() => {
        const text = document.getElementById('announcer').textContent;
        if (text) window.heard.push(text);
      }).observe(document.getElementById('announcer'), { childList: true, characterData: true, subtree: true });
    });
    await ask(page, 'Tell me about yourself and this stream, please.');
    await state(page, 'done');
    const heard = await until('the end is heard', () => page.evaluate(() => (window.heard.some((text) => text.includes('The answer is complete.')) ? window.heard : null)));
    const all = heard.join(' ');
    assert.match(all, /It does not think; it streams, so that you can see the wire at work\./);
    assert.doesNotMatch(all, /\*\*|```/);
    assert.ok(heard.length < 40, `${heard.length} announcements`);
    assert.equal(await page.getAttribute('#announcer', 'aria-live'), 'polite');
    assert.deepEqual(wrong, []);
    await close();
  });

  test('the page lets no script in', async () => {
    const { page, close } = await visit(`${gateway}/`);
    const refused = await page.evaluate(() => new Promise((resolve) => {
      document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective), { once: true });
      const script = document.createElement('div');
      try {
        script.innerHTML = '<b>x</b>';
        resolve('markup was let in');
      } catch {
        // Trusted Types refuse it; the event follows.
      }
    }));
    assert.equal(refused, 'require-trusted-types-for');
    await close();
  });
});
