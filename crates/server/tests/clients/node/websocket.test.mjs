// npm `ws` against /v1/ws.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { TERMINAL, brokenRoad, counted, gateway, requests } from './gateway.mjs';

/** A socket whose messages are awaited one after the other. */
async function open(options = {}, base = gateway) {
  const socket = new WebSocket(`${base.replace(/^http/, 'ws')}/v1/ws`, options);
  const messages = [];
  const waiting = [];
  let closed = null;
  const settle = () => {
    while (waiting.length && (messages.length || closed)) {
      const { resolve, reject } = waiting.shift();
      if (messages.length) resolve(messages.shift());
      else reject(closed);
    }
  };
  socket.on('message', (data, isBinary) => {
    assert.equal(isBinary, false);
    messages.push(JSON.parse(data));
    settle();
  });
  socket.on('close', (code) => {
    closed = Object.assign(new Error(`closed with ${code}`), { code });
    settle();
  });
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  socket.on('error', () => {});
  const receive = () => new Promise((resolve, reject) => (waiting.push({ resolve, reject }), settle()));
  return {
    socket,
    receive,
    send: (message) => socket.send(JSON.stringify(message)),
    until: async (...types) => {
      const seen = [];
      do {
        seen.push(await receive());
        const { type } = seen.at(-1);
        if (/error$/.test(type) && !types.includes(type)) throw new Error(`unexpected: ${JSON.stringify(seen.at(-1))}`);
      } while (!types.includes(seen.at(-1).type));
      return seen;
    },
  };
}

async function withSocket(use, options, base) {
  const opened = await open(options, base);
  try {
    await use(opened);
  } finally {
    opened.socket.terminate();
  }
}

const text = (events) => events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta).join('');

test('an offered permessage-deflate is declined', () =>
  withSocket(
    async ({ socket, send, until }) => {
      assert.equal(socket.extensions, '');
      send({ type: 'response.create', input: '[[tokens=6 text=count]]' });
      assert.equal(text(await until(...TERMINAL)), counted(6));
    },
    { perMessageDeflate: true },
  ));

test('lanes run concurrently, each in order', () =>
  withSocket(async ({ send, receive }) => {
    for (const stream_id of ['a', 'b']) {
      for (const turn of ['1', '2']) {
        send({ type: 'response.create', input: '[[tokens=10 text=count tbt=5ms]]', stream_id, metadata: { turn } });
      }
    }
    const lanes = { a: [], b: [] };
    const order = [];
    for (let ended = 0; ended < 4; ) {
      const event = await receive();
      lanes[event.stream_id].push(event);
      order.push(event.stream_id);
      if (TERMINAL.includes(event.type)) ended += 1;
    }
    for (const events of Object.values(lanes)) {
      const marks = events.filter((event) => ['response.created', ...TERMINAL].includes(event.type));
      assert.deepEqual(
        marks.map((event) => [event.type, event.response.metadata.turn]),
        ['1', '2'].flatMap((turn) => ['response.created', 'response.completed'].map((type) => [type, turn])),
      );
      assert.equal(text(events), counted(10) + counted(10));
    }
    assert.ok(order.indexOf('b') < order.lastIndexOf('a') && order.indexOf('a') < order.lastIndexOf('b'), 'the lanes must run concurrently');
  }));

test('an error on one lane closes neither the socket nor the other lane', () =>
  withSocket(async ({ send, receive }) => {
    send({ type: 'response.create', input: '[[tokens=10 text=count tbt=5ms]]', stream_id: 'good' });
    send({ type: 'response.create', stream_id: 'bad' });
    const seen = [];
    while (!TERMINAL.includes(seen.at(-1)?.type)) seen.push(await receive());
    const errors = seen.filter((event) => event.type === 'error');
    assert.deepEqual(errors.map((event) => [event.stream_id, event.status, event.error.param]), [['bad', 400, 'input']]);
    assert.equal(text(seen), counted(10));
    assert.equal(seen.at(-1).type, 'response.completed');
  }));

test('a message that is not JSON gets an error and keeps the socket open', () =>
  withSocket(async ({ socket, send, receive }) => {
    socket.send('{"type":');
    assert.match((await receive()).type, /error$/);
    send({ type: 'tokenwire:ping' });
    assert.equal((await receive()).type, 'tokenwire:pong');
  }));

test('a binary message closes with 1003', () =>
  withSocket(async ({ socket, receive }) => {
    socket.send(Buffer.from([0, 1]));
    await assert.rejects(receive(), { code: 1003 });
  }));

test('a cut socket resumes on another at the exact token', async () => {
  const road = await brokenRoad({ bytes: 6000, cuts: 1 });
  try {
    const before = await requests();
    const seen = [];
    await withSocket(
      async ({ send, receive }) => {
        send({ type: 'response.create', input: '[[tokens=200 text=count tbt=2ms]]' });
        await assert.rejects(async () => {
          for (;;) seen.push(await receive());
        });
      },
      {},
      road.url,
    );
    assert.ok(seen.length > 0 && !TERMINAL.includes(seen.at(-1).type));
    await withSocket(async ({ send, until }) => {
      send({ type: 'tokenwire:resume', response_id: seen[0].response.id, starting_after: seen.at(-1).sequence_number, stream_id: 'again' });
      const [resumed, ...rest] = await until(...TERMINAL);
      assert.equal(resumed.type, 'tokenwire:resumed');
      assert.deepEqual(new Set(rest.map((event) => event.stream_id)), new Set(['again']));
      seen.push(...rest);
    });
    assert.deepEqual(seen.map((event) => event.sequence_number), seen.map((_, number) => number));
    assert.equal(text(seen), counted(200));
    assert.equal(await requests(), before + 1);
  } finally {
    road.close();
  }
});

test('a foreign origin is refused before the upgrade', async () => {
  await assert.rejects(open({ origin: 'https://evil.example' }), /403/);
});
