// A plain EventSource as in a browser: it reads to the end, stops there, and resumes after a cut.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EventSource } from 'eventsource';
import { TERMINAL, brokenRoad, counted, gateway, requests } from './gateway.mjs';

/** Reads until the source is closed. Returns every message and the end. */
function readToTheEnd(url) {
  return new Promise((resolve) => {
    const source = new EventSource(url);
    const messages = [];
    let opened = 0;
    source.onopen = () => (opened += 1);
    source.onmessage = (message) => messages.push({ id: message.lastEventId, event: JSON.parse(message.data) });
    source.onerror = (error) => {
      if (source.readyState === EventSource.CLOSED) resolve({ messages, opened, code: error.code });
    };
  });
}

function check(messages, tokens) {
  const events = messages.map((message) => message.event);
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, number) => number), 'no gap and none twice');
  assert.deepEqual(messages.map((message) => Number(message.id.split('.')[1])), events.map((event) => event.sequence_number));
  assert.equal(events[0].type, 'response.created');
  assert.equal(events.filter((event) => TERMINAL.includes(event.type)).length, 1);
  const text = events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta).join('');
  assert.equal(text, counted(tokens));
}

const start = (base, input) => `${base}/v1/streams?input=${encodeURIComponent(input)}`;

test('reads to the end, gets 204 on reconnect and starts nothing', async () => {
  const before = await requests();
  const { messages, opened, code } = await readToTheEnd(start(gateway, '[[tokens=6 text=count]]'));
  check(messages, 6);
  assert.equal(opened, 1);
  assert.equal(code, 204);
  assert.equal(await requests(), before + 1);
});

for (const { bytes, cuts } of [{ bytes: 6000, cuts: 1 }, { bytes: 8000, cuts: 3 }]) {
  test(`resumes at the exact token after ${cuts} cut(s)`, async () => {
    const road = await brokenRoad({ bytes, cuts });
    try {
      const before = await requests();
      const { messages, opened, code } = await readToTheEnd(start(road.url, '[[tokens=200 text=count tbt=2ms]]'));
      check(messages, 200);
      assert.equal(road.cutsLeft(), 0, 'every cut must have happened');
      assert.equal(opened, cuts + 1);
      assert.equal(code, 204);
      assert.equal(await requests(), before + 1, 'one generation');
    } finally {
      road.close();
    }
  });
}

test('a failure is an event, and the end', async () => {
  const before = await requests();
  const { messages, code } = await readToTheEnd(start(gateway, '[[tokens=20 text=count fault=cut after=4]]'));
  check(messages, 4);
  assert.equal(messages.at(-1).event.type, 'response.failed');
  assert.equal(code, 204);
  assert.equal(await requests(), before + 1);
});

test('reads a stream that another client started', async () => {
  const job = await (
    await fetch(`${gateway}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ input: '[[tokens=6 text=count tbt=5ms]]', background: true }),
    })
  ).json();
  const { messages, code } = await readToTheEnd(`${gateway}/v1/streams/${job.id}`);
  check(messages, 6);
  assert.equal(code, 204);
});

test('an unknown stream ends it with 404', async () => {
  const { messages, code } = await readToTheEnd(`${gateway}/v1/streams/resp_doesnotexist`);
  assert.deepEqual(messages, []);
  assert.equal(code, 404);
});
