// The chat page in Chromium.
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { answer, ask, chat, findings, meter, open, picture, shown, shut, state, visit } from './browser.mjs';
import { badRoad } from './chaos.mjs';
import { aborted, counted, gateway, marker, question, until, upstreamSaw } from './surroundings.mjs';

after(shut);

const NAMED = [['ws', 'WebSocket'], ['sse', 'fetch'], ['eventsource', 'EventSource']];
const TRANSPORTS = [...NAMED, ['auto', 'WebSocket']];
/** Chromium's console messages about connections that were cut. */
const CUT = /Failed to load resource|net::ERR_|WebSocket connection to .* failed/;
const whole = (tokens) => counted(tokens).trim();

describe('asking', () => {
  for (const [transport, name] of TRANSPORTS) {
    test(`an answer over ${transport} is complete, and the conversation continues`, async () => {
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
      assert.equal((await upstreamSaw(word)).length, 2, 'the second request contains the first question');
      assert.deepEqual(wrong, []);
      await close();
    });
  }

  test('Markdown is rendered', async () => {
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

  test('"Ask again" replaces the answer', async () => {
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

describe('thoughts and tool calls', () => {
  for (const [transport] of NAMED) {
    test(`over ${transport} are folded, and kept with the conversation`, async () => {
      const { page, wrong, close } = await chat();
      const word = marker();
      const input = encodeURIComponent('{"city":"Ulm"}');
      await ask(page, `${word} [[calls=2 reasoning=6 arguments=${input}]]`, transport);
      await state(page, 'done');
      const seen = async () => {
        await page.waitForSelector('.tool:visible');
        await page.waitForSelector('.reasoning:visible');
        return page.evaluate(() => ({
          open: document.querySelectorAll('.reasoning[open], .tool[open]').length,
          thoughts: document.querySelector('.reasoning div').textContent.length > 0,
          calls: [...document.querySelectorAll('.tool')].map((tool) => [tool.querySelector('summary').textContent, tool.querySelector('pre').textContent]),
        }));
      };
      const expected = { open: 0, thoughts: true, calls: Array(2).fill(['Tool call: lookup', '{\n  "city": "Ulm"\n}']) };
      assert.deepEqual(await seen(), expected);
      await page.click('.tool summary >> nth=0');
      assert.equal(await page.isVisible('.tool pre >> nth=0'), true);
      assert.deepEqual(await findings(page), []);
      await picture(page, `tool-call-${transport}`);
      await page.reload();
      assert.deepEqual(await seen(), expected);
      // The page runs no tools: the next question does not leave the model waiting for a result.
      await ask(page, question(4));
      await until('the next answer', async () => (await answer(page)).trim() === whole(4));
      const messages = (await upstreamSaw(word)).at(-1).body.messages;
      assert.equal(messages.some((message) => message.tool_calls), false);
      assert.deepEqual(wrong, []);
      await close();
    });
  }
});

describe('a pasted API key', () => {
  test('in the question is not sent, and a warning says so', async () => {
    const { page, wrong, close } = await chat();
    const key = `sk-proj-${marker()}`;
    await ask(page, key);
    await page.waitForSelector('#warning:visible');
    assert.match(await page.textContent('#warning'), /API key/);
    assert.equal(await page.locator('#turns article').count(), 0);
    assert.equal((await upstreamSaw(key)).length, 0);
    assert.deepEqual(await findings(page), []);
    await page.fill('#question', question(3));
    assert.equal(await page.isVisible('#warning'), false);
    await page.press('#question', 'Enter');
    await state(page, 'done');
    assert.deepEqual(wrong, []);
    await close();
  });

  test('in the address is removed from it', async () => {
    const { page, wrong, close } = await chat({}, `${gateway}/#key=sk-proj-${marker()}`);
    await page.waitForSelector('#warning:visible');
    assert.equal(new URL(page.url()).hash, '');
    assert.deepEqual(wrong, []);
    await close();
  });
});

describe('a page on plain http from another machine', () => {
  test('works without the APIs that browsers keep from it', async () => {
    const context = await (await open()).newContext();
    // As on an insecure origin.
    await context.addInitScript(() => {
      delete Crypto.prototype.randomUUID;
      delete Crypto.prototype.subtle;
      delete Navigator.prototype.clipboard;
    });
    const { page, wrong, close } = await chat({ context });
    for (const [at, [transport]] of TRANSPORTS.entries()) {
      await page.waitForSelector('#send:visible');
      await ask(page, question(5 + at), transport);
      await until('the answer', async () => (await answer(page)).trim() === whole(5 + at));
    }
    await page.click('#share');
    await page.waitForFunction(() => document.getElementById('share').textContent === 'The link is in the address bar');
    assert.deepEqual(wrong, []);
    await close();
    await context.close();
  });
});

describe('a connection that breaks', () => {
  for (const [transport] of NAMED) {
    test(`"Cut the connection" over ${transport} loses no token`, async () => {
      const { page, wrong, close } = await chat({ expected: CUT });
      await ask(page, question(200, { tbt: '25ms' }), transport);
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

    test(`a faulty network over ${transport} loses no token`, async () => {
      const road = await badRoad(gateway);
      const { page, wrong, close } = await chat({ expected: CUT }, `${road.url}/`);
      const word = marker();
      // Cuts are counted per connection. Connections that loaded the page are past these positions, so they are closed first.
      await until('the page is loaded', async () => (await page.evaluate(() => document.readyState)) === 'complete');
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

    test(`a reload during an answer over ${transport} resumes`, async () => {
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

  test('if upgrades are refused the page uses SSE', async () => {
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
    test(`an answer over ${transport} continues after an offline time`, async () => {
      const road = await badRoad(gateway);
      const { page, context, wrong, close } = await chat({ expected: CUT }, `${road.url}/`);
      await ask(page, question(300, { tbt: '10ms' }), transport);
      await shown(page, 30);
      await context.setOffline(true);
      road.cutAll();
      await page.waitForFunction(() => ['offline', 'waiting'].includes(document.getElementById('state').dataset.state));
      await page.waitForSelector('.note:visible');
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
    test(`a second tab reads the same answer over ${transport}`, async () => {
      const { page, context, wrong, close } = await chat();
      const word = marker();
      await ask(page, question(5, { word }), transport);
      await state(page, 'done');
      await ask(page, question(600, { word, tbt: '8ms' }));
      await shown(page, 20);
      const second = await chat({ context }, page.url());
      await shown(second.page, 40);
      assert.equal(await second.page.evaluate(() => document.getElementById('state').dataset.state), 'streaming', 'the second tab reads live');
      await Promise.all([state(page, 'done'), state(second.page, 'done')]);
      assert.equal((await answer(second.page)).trim(), whole(600));
      assert.equal((await answer(page)).trim(), whole(600));
      // The earlier turn was read from the gateway too.
      assert.equal(await second.page.locator('#turns article').count(), 2);
      assert.equal((await second.page.textContent('#turns article:first-child .markdown')).trim(), whole(5));
      assert.equal((await upstreamSaw(word)).length, 2);
      assert.deepEqual([...wrong, ...second.wrong], []);
      await close();
    });
  }

  test('a link to an answer that is not kept shows an error', async () => {
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
    // Browsers open six HTTP/1.1 connections to an origin. More EventSources would be queued, so the last three are WebSockets.
    await Promise.all(pages.map((each, at) => ask(each, question(60 + at, { tbt: '10ms' }), at < 5 ? 'eventsource' : 'ws')));
    await Promise.all(pages.map((each) => state(each, 'done')));
    for (const [at, each] of pages.entries()) assert.equal((await answer(each)).trim(), whole(60 + at));
    assert.deepEqual(wrong, []);
    await close();
  });
});

describe('a gateway that lost the previous answer', () => {
  for (const [transport] of NAMED) {
    test(`gets the conversation again over ${transport}`, async () => {
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
    test(`Stop over ${transport} cancels the upstream request and keeps the text`, async () => {
      const { page, wrong, close } = await chat({ expected: CUT });
      const word = marker();
      await ask(page, question(100_000, { word, tbt: '5ms' }), transport);
      await shown(page, 10);
      await page.keyboard.press('Escape');
      await aborted(word);
      await state(page, 'aborted');
      assert.ok(whole(100_000).startsWith((await answer(page)).trim().slice(0, 200)));
      assert.equal(await page.textContent('.note'), 'Stopped.');
      // The conversation continues.
      await ask(page, question(4));
      await until('the next answer', async () => (await answer(page)).trim() === whole(4));
      assert.deepEqual(wrong, []);
      await close();
    });

    test(`Stop over ${transport} before the first token cancels the upstream request`, async () => {
      const { page, wrong, close } = await chat({ expected: CUT });
      const word = marker();
      await ask(page, question(5, { word, more: 'ttft=1h' }), transport);
      await until('the upstream has the question', async () => (await upstreamSaw(word)).length === 1);
      await page.click('#stop');
      await aborted(word);
      await page.waitForFunction(() => document.querySelector('.note')?.textContent.startsWith('Stopped'));
      assert.deepEqual(wrong, []);
      await close();
    });
  }
});

describe('errors', () => {
  test('are explained, below the text so far', async () => {
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

  test('"Try again" repeats a failed question', async () => {
    const { page, wrong, close } = await chat();
    await ask(page, `x [[tokens=6 text=count fault=cut after=1 times=1 id=${marker()}]]`);
    await page.click('.error button:text-is("Try again")');
    await state(page, 'done');
    assert.equal((await answer(page)).trim(), whole(6));
    assert.equal(await page.isVisible('.error'), false);
    assert.deepEqual(wrong, []);
    await close();
  });
});

describe('accessibility', () => {
  const SIZES = { desktop: { viewport: { width: 1280, height: 860 } }, phone: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true } };
  for (const [size, settings] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      test(`${size}, ${colorScheme}: axe has no serious finding`, async () => {
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
        assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, 'the page has no horizontal scroll');
        assert.deepEqual(wrong, []);
        await close();
      });
    }
  }

  test('the theme is switched and remembered', async () => {
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

  test('the page is usable by keyboard alone', async () => {
    // On touch devices nothing has the focus at first, since that would open the on-screen keyboard.
    const { page, wrong, close } = await chat({ reducedMotion: 'reduce', hasTouch: true, isMobile: true, viewport: { width: 1280, height: 860 } });
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'question');
    await page.keyboard.type(question(5));
    await page.keyboard.press('Enter');
    await state(page, 'done');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'question', 'the question has the focus again');
    const reached = new Set();
    for (let step = 0; step < 25; step += 1) {
      await page.keyboard.press('Tab');
      const { id, outlined } = await page.evaluate(() => {
        const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
        const { id, className, nodeName } = document.activeElement;
        return { id: id || className || nodeName, outlined: document.activeElement === document.body || (outlineStyle !== 'none' && outlineWidth !== '0px') };
      });
      if (id !== 'question') assert.ok(outlined, `${id} has a visible focus`);
      reached.add(id);
    }
    for (const id of ['theme', 'new', 'scroll', 'question', 'model', 'transport']) assert.ok(reached.has(id), `${id} was not reached: ${[...reached]}`);
    assert.deepEqual(wrong, []);
    await close();
  });

  test('sentences and the end of the answer are announced', async () => {
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
    const heard = await until('the announcement of the end', () => page.evaluate(() => (window.heard.some((text) => text.includes('The answer is complete.')) ? window.heard : null)));
    const all = heard.join(' ');
    assert.match(all, /It does not think; it streams, so that you can see the wire at work\./);
    assert.doesNotMatch(all, /\*\*|```/);
    assert.ok(heard.length < 40, `${heard.length} announcements`);
    assert.equal(await page.getAttribute('#announcer', 'aria-live'), 'polite');
    assert.deepEqual(wrong, []);
    await close();
  });

  test('a long text without the end of a sentence costs no more per word than a short one', async () => {
    const { page, close } = await chat();
    const heard = await page.evaluate(async () => {
      const { Announcer } = await import('/page/announcer.js');
      const announcer = new Announcer(document.createElement('div'));
      const said = [];
      announcer.say = (text) => said.push(text);
      let text = '';
      for (let word = 0; word < 20_000; word += 1) announcer.follow(text += ` w${word}`);
      for (const more of ['. Pi is 3', '.', '14', '! 好。', ' The']) announcer.follow(text += more);
      // As after a reconnect: the text is read again from its beginning.
      announcer.follow(text.slice(0, 9));
      announcer.follow(`${text} end`, { done: true });
      return [said[0].length > 100_000, ...said.slice(1)];
    });
    assert.deepEqual(heard, [true, 'Pi is 3.14! 好。', 'The end']);
    await close();
  });

  test('the page refuses markup from scripts (Trusted Types)', async () => {
    const { page, close } = await visit(`${gateway}/`);
    const refused = await page.evaluate(() => new Promise((resolve) => {
      document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective), { once: true });
      const script = document.createElement('div');
      try {
        script.innerHTML = '<b>x</b>';
        resolve('markup was let in');
      } catch {
        // Refused by Trusted Types. The event follows.
      }
    }));
    assert.equal(refused, 'require-trusted-types-for');
    await close();
  });
});
