// The client module in Node.
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import WebSocket from 'ws';
import { abortAfter, failure, lanes, read, wholeAndOnce } from './cases.mjs';
import { badRoad, dice } from './chaos.mjs';
import { LOG, scriptedGateway } from './scripted_gateway.mjs';
import { aborted, client, counted, gateway, marker, question, until, upstreamSaw } from './surroundings.mjs';

const TRANSPORTS = ['ws', 'sse', 'auto'];
/** Short pauses between retries. */
const QUICK = { model: 'simulator', WebSocket, retryBase: 40, retryCap: 200, stallTimeout: 3000, openTimeout: 1000 };

const roads = [];
async function road(options) {
  const made = await badRoad(gateway, options);
  roads.push(made);
  return made;
}
after(() => Promise.all(roads.map((each) => each.close())));

describe('SseParser', () => {
  const text = 'retry: 2000\nid: a.0\ndata: {"x":"é🚀"}\n\n:\nid:a.1\r\ndata:one\r\ndata: two\r\n\r\nevent: e\rdata\r\rdata: last, never finished\n';
  const expected = [
    { event: 'message', data: '{"x":"é🚀"}', id: 'a.0' },
    { event: 'message', data: 'one\ntwo', id: 'a.1' },
    { event: 'e', data: '', id: 'a.1' },
  ];
  const bytes = new TextEncoder().encode(text);

  test('parses a whole stream', () => {
    assert.deepEqual(new client.SseParser().push(bytes), expected);
  });

  test('parses the same split at every byte', () => {
    for (let at = 0; at <= bytes.length; at += 1) {
      const parser = new client.SseParser();
      assert.deepEqual([...parser.push(bytes.subarray(0, at)), ...parser.push(bytes.subarray(at))], expected, `split at ${at}`);
    }
    const parser = new client.SseParser();
    assert.deepEqual([...bytes].flatMap((byte) => parser.push(Uint8Array.of(byte))), expected);
  });

  test('skips a byte order mark', () => {
    const parser = new client.SseParser();
    assert.deepEqual(parser.push(new TextEncoder().encode('\uFEFFdata: x\n\n')), [{ event: 'message', data: 'x', id: '' }]);
  });
});

describe('a working network', () => {
  for (const transport of TRANSPORTS) {
    test(`an answer over ${transport} is complete`, async () => {
      const input = question(300);
      const { wrong, reconnects } = await wholeAndOnce(client, { ...QUICK, baseUrl: gateway, transport, input, tokens: 300 });
      assert.deepEqual(wrong, []);
      assert.equal(reconnects, 0);
    });
  }

  test('auto uses the WebSocket', async () => {
    const { transport } = await wholeAndOnce(client, { ...QUICK, baseUrl: gateway, input: question(5), tokens: 5 });
    assert.equal(transport, 'ws');
  });

  test('auto uses SSE without a WebSocket class', async () => {
    const { wrong, transport } = await wholeAndOnce(client, { ...QUICK, baseUrl: gateway, input: question(5), tokens: 5, WebSocket: null });
    assert.deepEqual(wrong, []);
    assert.equal(transport, globalThis.WebSocket ? 'ws' : 'sse');
  });

  for (const transport of ['ws', 'sse']) {
    test(`chat messages and other parameters are sent over ${transport}`, async () => {
      const word = marker();
      const messages = [
        { role: 'system', content: `be ${word}` },
        { role: 'user', content: [{ type: 'text', text: question(4) }] },
      ];
      const { wrong } = await wholeAndOnce(client, { ...QUICK, baseUrl: gateway, transport, messages, temperature: 0.25, tokens: 4 });
      assert.deepEqual(wrong, []);
      const [request] = await upstreamSaw(word);
      assert.equal(request.body.temperature, 0.25);
    });
  }

  test('previous_response_id continues a conversation', async () => {
    const word = marker();
    const first = await read(client, { ...QUICK, baseUrl: gateway, input: question(3, { word }) });
    await wholeAndOnce(client, { ...QUICK, baseUrl: gateway, input: question(3), previous_response_id: first.id, tokens: 3 });
    assert.equal((await upstreamSaw(word)).length, 2, 'the second request contains the first question');
  });

  for (const transport of ['ws', 'sse']) {
    test(`a second reader over ${transport} gets every event from the first or from its cursor`, async () => {
      const first = client.stream({ ...QUICK, baseUrl: gateway, transport, input: question(60, { tbt: '5ms' }) });
      const id = await first.started;
      const second = client.attach(id, { ...QUICK, baseUrl: gateway, transport });
      assert.equal(await second.finalText, counted(60));
      assert.equal(await first.finalText, counted(60));
      const late = client.attach(id, { ...QUICK, baseUrl: gateway, transport, after: first.lastSequence - 5 });
      const numbers = [];
      for await (const event of late) numbers.push(event.sequence_number);
      assert.deepEqual(numbers, [4, 3, 2, 1, 0].map((back) => first.lastSequence - back));
    });

    test(`attaching over ${transport} at the end of a finished stream gets the object`, async () => {
      const first = await read(client, { ...QUICK, baseUrl: gateway, transport, input: question(3) });
      const late = client.attach(first.id, { ...QUICK, baseUrl: gateway, transport, after: first.last });
      assert.equal((await late.response).status, 'completed');
      assert.equal(late.text, counted(3));
    });

    test(`attaching over ${transport} past the end gets a reset`, async () => {
      const first = await read(client, { ...QUICK, baseUrl: gateway, transport, input: question(3) });
      const late = client.attach(first.id, { ...QUICK, baseUrl: gateway, transport, after: first.last + 1000 });
      assert.equal((await late.response).status, 'completed');
      assert.deepEqual([late.text, late.lastSequence], [counted(3), first.last]);
    });
  }
});

describe('a faulty network', () => {
  for (const transport of TRANSPORTS) {
    for (const seed of [1, 2, 3]) {
      test(`an answer over ${transport} is complete and not repeated across cuts (seed ${seed})`, async () => {
        const roll = dice(seed);
        const cuts = Array.from({ length: 5 }, () => 300 + Math.floor(roll() * 7000));
        const bad = await road({ cuts });
        const word = marker();
        const input = question(400, { word, tbt: '1ms' });
        const { wrong, reconnects } = await wholeAndOnce(client, { ...QUICK, baseUrl: bad.url, transport, input, tokens: 400 });
        assert.deepEqual(wrong, [], `cuts at ${cuts}`);
        assert.ok(bad.made >= 3, `only ${bad.made} cuts`);
        assert.ok(reconnects >= 1);
        assert.equal((await upstreamSaw(word)).length, 1, 'the upstream got one request');
      });
    }

    test(`a repeated start over ${transport} is billed once`, async () => {
      // Every answer is cut within its first event.
      const bad = await road({ cuts: [0, 10, 200, 260] });
      const word = marker();
      const { wrong } = await wholeAndOnce(client, { ...QUICK, baseUrl: bad.url, transport, input: question(50, { word }), tokens: 50 });
      assert.deepEqual(wrong, []);
      assert.equal(bad.made, 4);
      assert.equal((await upstreamSaw(word)).length, 1);
    });

    test(`a silent connection over ${transport} is replaced`, async () => {
      const bad = await road({ stalls: [3000, 2500] });
      const options = { ...QUICK, stallTimeout: 1500, baseUrl: bad.url, transport };
      const { wrong, states } = await wholeAndOnce(client, { ...options, input: question(100, { tbt: '5ms' }), tokens: 100 });
      assert.deepEqual(wrong, []);
      assert.equal(bad.stalled, 2);
      assert.ok(states.some(({ code }) => code === 'stalled'), JSON.stringify(states));
    });

    test(`cut() over ${transport} loses no token`, async () => {
      const stream = client.stream({ ...QUICK, baseUrl: gateway, transport, input: question(400, { tbt: '5ms' }) });
      let tokens = 0;
      // Once per connection: several tokens may come in one piece.
      let cuts = 0;
      stream.on('delta', () => {
        if ((tokens += 1) % 20 === 0 && stream.reconnects === cuts && cuts < 4) {
          cuts += 1;
          stream.cut();
        }
      });
      assert.equal(await stream.finalText, counted(400));
      assert.equal(tokens, 400);
      assert.equal(stream.reconnects, cuts);
      assert.ok(cuts >= 3, `${cuts} cuts`);
    });
  }

  for (const upgrades of ['refuse', 'swallow', 'close']) {
    test(`auto falls back to SSE if a proxy handles upgrades with: ${upgrades}`, async () => {
      const bad = await road({ upgrades });
      const word = marker();
      const options = { ...QUICK, baseUrl: bad.url };
      const first = await wholeAndOnce(client, { ...options, input: question(80, { word }), tokens: 80 });
      assert.deepEqual(first.wrong, []);
      assert.equal(first.transport, 'sse');
      assert.equal((await upstreamSaw(word)).length, 1, 'a start that arrived is not repeated with another key');
      const tried = bad.upgradesSeen;
      assert.ok(tried >= 1);
      await wholeAndOnce(client, { ...options, input: question(5), tokens: 5 });
      assert.equal(bad.upgradesSeen, tried, 'a blocked WebSocket is not tried again at once');
    });
  }

  test('an explicit transport is not replaced', async () => {
    const bad = await road({ upgrades: 'refuse' });
    const error = await failure(client, { ...QUICK, retries: 2, retryBase: 1, transport: 'ws', baseUrl: bad.url, input: 'x' });
    assert.equal(error.code, 'websocket_unavailable');
  });

  test('an unreachable gateway fails after the retries', async () => {
    const bad = await badRoad(gateway);
    await bad.close();
    for (const transport of TRANSPORTS) {
      const error = await failure(client, { ...QUICK, retries: 3, retryBase: 1, transport, baseUrl: bad.url, input: 'x' });
      assert.equal(error.name, 'TokenwireError');
      assert.equal(error.retryable, true);
      assert.match(error.message, /Gave up after 3 attempts/);
    }
  });
});

describe('lanes', () => {
  test('ten streams share one socket', async () => {
    const way = await road();
    const tokens = Array.from({ length: 10 }, (_, at) => 20 + at * 7);
    const seen = await lanes(client, { ...QUICK, baseUrl: way.url, tokens, inputs: tokens.map((count) => question(count, { tbt: '2ms' })) });
    assert.deepEqual(seen.wrong, []);
    assert.equal(way.upgradesSeen, 1);
    assert.equal(seen.left, 0);
  });

  test('ten streams share one socket across repeated cuts', async () => {
    const bad = await road({ cuts: [4000, 9000, 30_000, 500, 20_000] });
    const word = marker();
    const tokens = Array.from({ length: 10 }, (_, at) => 60 + at * 7);
    const seen = await lanes(client, { ...QUICK, baseUrl: bad.url, tokens, inputs: tokens.map((count) => question(count, { tbt: '3ms', word })) });
    assert.deepEqual(seen.wrong, []);
    assert.ok(bad.made >= 3);
    assert.equal((await upstreamSaw(word)).length, 10);
  });

  test('an error on one lane does not affect the others', async () => {
    const socket = client.connect({ ...QUICK, baseUrl: gateway });
    const good = socket.stream({ model: 'simulator', input: question(50, { tbt: '3ms' }) });
    const bad = socket.stream({ model: 'simulator', input: 'x', previous_response_id: 'resp_thatDoesNotExist0000000' });
    await assert.rejects(bad.response, { name: 'TokenwireError', code: 'previous_response_not_found' });
    assert.equal(await good.finalText, counted(50));
    socket.close();
  });
});

describe('events that are missing', () => {
  for (const transport of ['ws', 'sse']) {
    test(`fail the stream over ${transport} if they never come`, async () => {
      const server = await scriptedGateway([{ events: [...LOG.slice(0, 2), ...LOG.slice(3)] }, { events: LOG.slice(3) }]);
      const error = await failure(client, { ...QUICK, retries: 3, retryBase: 1, baseUrl: server.url, transport, input: 'x' });
      server.close();
      assert.deepEqual([error.code, error.text], ['events_missing', 'a']);
    });
  }
});

describe('aborting', () => {
  for (const transport of ['ws', 'sse']) {
    test(`an abort over ${transport} cancels the upstream request`, async () => {
      const word = marker();
      const seen = await abortAfter(client, { ...QUICK, baseUrl: gateway, transport, input: question(100_000, { word, tbt: '5ms' }), tokens: 5 });
      assert.deepEqual([seen.name, seen.state, seen.seen], ['AbortError', 'aborted', 5]);
      await aborted(word);
    });

    test(`an abort over ${transport} before the first event cancels the upstream request`, async () => {
      const word = marker();
      const controller = new AbortController();
      const stream = client.stream({ ...QUICK, baseUrl: gateway, transport, signal: controller.signal, input: question(9, { word, more: 'ttft=1h' }) });
      const sent = new Promise((resolve) => stream.on('status', ({ state }) => { if (state === 'connecting') resolve(); }));
      await sent;
      controller.abort();
      await assert.rejects(stream.response, { name: 'AbortError' });
      await until('its requests are aborted', async () => (await upstreamSaw(word)).every((request) => request.outcome === 'aborted'));
    });

    test(`leaving the loop over ${transport} aborts the answer`, async () => {
      const word = marker();
      for await (const event of client.stream({ ...QUICK, baseUrl: gateway, transport, input: question(100_000, { word, tbt: '5ms' }) })) {
        if (event.type === 'response.output_text.delta') break;
      }
      await aborted(word);
    });

    test(`cancel() over ${transport} returns the answer so far`, async () => {
      const word = marker();
      const stream = client.stream({ ...QUICK, baseUrl: gateway, transport, input: question(100_000, { word, tbt: '5ms' }) });
      await new Promise((resolve) => stream.on('delta', resolve));
      const response = await stream.cancel();
      assert.equal(response.status, 'cancelled');
      assert.equal(stream.state, 'done');
      assert.ok(counted(100_000).startsWith(stream.text) && stream.text.length > 0);
      await aborted(word);
    });
  }

  test('close() leaves the generation running', async () => {
    const stream = client.stream({ ...QUICK, baseUrl: gateway, transport: 'ws', input: question(100, { tbt: '5ms' }) });
    const id = await stream.started;
    stream.close();
    await assert.rejects(stream.response, { code: 'closed' });
    assert.equal(await client.attach(id, { ...QUICK, baseUrl: gateway }).finalText, counted(100));
  });

  test('an abort with cancelOnAbort: false leaves the generation running', async () => {
    const controller = new AbortController();
    const stream = client.stream({ ...QUICK, baseUrl: gateway, transport: 'sse', cancelOnAbort: false, signal: controller.signal, input: question(100, { tbt: '5ms' }) });
    const id = await stream.started;
    controller.abort();
    assert.equal(await client.attach(id, { ...QUICK, baseUrl: gateway }).finalText, counted(100));
  });
});

describe('errors', () => {
  for (const transport of TRANSPORTS) {
    test(`an upstream error over ${transport} is reported and not retried`, async () => {
      const word = marker();
      const input = `${word} [[fault=error after=3 tokens=10 text=count]]`;
      const error = await failure(client, { ...QUICK, baseUrl: gateway, transport, input });
      assert.equal(error.name, 'TokenwireError');
      assert.ok(error.message.length > 0);
      assert.equal(error.text, counted(3), 'the text before the error is kept');
      assert.equal((await upstreamSaw(word)).length, 1);
    });

    test(`an invalid request over ${transport} fails at once`, async () => {
      const error = await failure(client, { ...QUICK, baseUrl: gateway, transport, input: 'x', conversation: 'c' });
      assert.deepEqual([error.code, error.status, error.retryable], ['unsupported_parameter', 400, false]);
    });
  }

  for (const transport of ['ws', 'sse']) {
    test(`an unknown stream over ${transport} is 404`, async () => {
      const stream = client.attach('resp_0000000000000000000000', { ...QUICK, baseUrl: gateway, transport });
      await assert.rejects(stream.response, (error) => error.status === 404 && /not kept/.test(error.explanation));
    });
  }

  test('a failed answer makes the loop throw', async () => {
    await assert.rejects(read(client, { ...QUICK, baseUrl: gateway, input: 'x [[fault=cut after=2 tokens=9]]' }), { code: 'upstream_truncated' });
  });

  test('invalid options are named', () => {
    assert.throws(() => client.stream({ input: 'x', transport: 'pigeon' }), { code: 'invalid_value', param: 'transport' });
    assert.throws(() => client.stream({ model: 'x' }), { code: 'missing_required_parameter' });
    assert.throws(() => client.attach('x'), { code: 'invalid_value', param: 'id' });
    for (const key of ['sk-abcdefgh12345678', 'Bearer sk-proj-abcdefgh', 'eyJhbGciOi.eyJzdWIi.c2ln', 'two words', 'schlüssel', '']) {
      assert.throws(() => client.stream({ input: 'x', idempotencyKey: key }), { code: 'invalid_value', param: 'idempotencyKey' }, key);
    }
  });
});

describe('a key', () => {
  test('that is random is not taken for a credential', () => {
    for (const text of ['a question', 'sk-', 'What does sk-abcdefgh12345678 mean?', 'tw-abcdefgh12345678', '2f1c7a9e']) assert.equal(client.looksLikeCredential(text), false, text);
  });
});

describe('backpressure', () => {
  for (const transport of ['ws', 'sse']) {
    test(`a slow reader over ${transport} gets every event with a bounded backlog`, async () => {
      const stream = client.stream({ ...QUICK, baseUrl: gateway, transport, input: question(20_000) });
      const numbers = [];
      for await (const event of stream) {
        numbers.push(event.sequence_number);
        // The network runs ahead during this pause.
        if (numbers.length % 2000 === 0) await new Promise((resolve) => setTimeout(resolve, 60));
      }
      assert.deepEqual(numbers, Array.from({ length: numbers.length }, (_, at) => at));
      assert.equal(stream.text, counted(20_000));
    });
  }

  test('iterating after the backlog overflowed throws', async () => {
    const stream = client.stream({ ...QUICK, baseUrl: gateway, input: question(6000) });
    await stream.response;
    await assert.rejects(stream[Symbol.asyncIterator]().next(), { code: 'events_not_kept' });
  });

  test('iterating late gets every event of the backlog', async () => {
    const stream = client.stream({ ...QUICK, baseUrl: gateway, input: question(100) });
    await stream.response;
    let text = '';
    for await (const event of stream) if (event.type === 'response.output_text.delta') text += event.delta;
    assert.equal(text, counted(100));
  });
});
