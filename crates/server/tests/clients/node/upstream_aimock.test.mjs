// aimock, an independent server, as the upstream: both of its APIs and its faults.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { LLMock } from '@copilotkit/aimock';
import { APIError, RateLimitError } from 'openai';
import { TERMINAL } from './gateway.mjs';
import { startGateway, watchedRoad } from './own.mjs';
import { chatTool, tool } from './scenarios.mjs';

const SENTENCE = 'Now is the winter of our discontent made glorious summer by this sun of York. – “Ünïcödé” 😀\n';
const USAGE = { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 };
const ARGUMENTS = { city: 'Oslo', days: 3 };

/** aimock's answers by a word of the question. */
function teach(mock) {
  mock.onMessage('plainly', { content: SENTENCE, usage: USAGE }, { chunkSize: 7 });
  mock.onMessage('thoughtfully', { content: SENTENCE, reasoning: 'Let me think.' }, { chunkSize: 5 });
  mock.onMessage('weather', { toolCalls: [{ id: 'call_of_aimock', name: 'get_weather', arguments: ARGUMENTS }] }, { chunkSize: 4 });
  mock.onMessage('slowly', { content: SENTENCE, usage: USAGE }, { chunkSize: 10, latency: 20 });
  // aimock keeps writing after its client left, so the answer is short.
  mock.onMessage('at length', { content: SENTENCE.repeat(2) }, { chunkSize: 2, latency: 20 });
  mock.onMessage('truncate', { content: SENTENCE }, { chunkSize: 5, latency: 5, truncateAfterChunks: 8 });
  mock.onMessage('disconnect', { content: SENTENCE.repeat(50) }, { chunkSize: 5, latency: 10, disconnectAfterMs: 300 });
  mock.onMessage('refused', { error: { message: 'Not with me.', type: 'invalid_request_error', code: 'not_with_me' }, status: 400 });
  mock.onMessage('limited', { error: { message: 'Too fast.', type: 'rate_limit_error', code: 'rate_limit_exceeded' }, status: 429 });
  const chaos = { dropped: 'dropRate', malformed: 'malformedRate', severed: 'disconnectRate', throttled: 'rateLimitRate' };
  for (const [word, rate] of Object.entries(chaos)) {
    mock.addFixture({ match: { userMessage: word }, response: { content: SENTENCE }, chaos: { [rate]: 1 } });
  }
}

const chat = (word, more = {}) => ({ model: 'gpt-4o', messages: [{ role: 'user', content: `Answer ${word}.` }], ...more });
const responses = (word, more = {}) => ({ model: 'gpt-4o', input: `Answer ${word}.`, ...more });

const counts = ({ prompt_tokens, completion_tokens, total_tokens }) => ({ prompt_tokens, completion_tokens, total_tokens });

async function readChat(stream) {
  const seen = { text: '', reasoning: '', finish: null, usage: null, ids: new Set(), calls: [] };
  try {
    for await (const chunk of stream) {
      seen.ids.add(chunk.id);
      seen.usage = chunk.usage ?? seen.usage;
      const [choice] = chunk.choices;
      if (!choice) continue;
      seen.text += choice.delta.content ?? '';
      seen.reasoning += choice.delta.reasoning_content ?? '';
      seen.finish = choice.finish_reason ?? seen.finish;
      for (const { index, function: piece } of choice.delta.tool_calls ?? []) {
        seen.calls[index] = (seen.calls[index] ?? '') + (piece.arguments ?? '');
      }
    }
  } catch (error) {
    seen.error = error;
  }
  return seen;
}

async function readResponses(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  // Gaps are allowed: `tokenwire:` events are left out for an SDK.
  const numbers = events.map((event) => event.sequence_number);
  assert.ok(numbers.every((number, at) => at === 0 || number > numbers[at - 1]), numbers.join());
  assert.equal(events.filter((event) => TERMINAL.includes(event.type)).length, 1);
  assert.equal(events[0].type, 'response.created');
  return events.at(-1).response;
}

const textOf = (response) =>
  response.output.flatMap((item) => item.content ?? []).filter((part) => part.type === 'output_text').map((part) => part.text).join('');

/** Reads `/v1/streams` in eventsource framing. Returns the payloads and the ids. */
async function readEventSource(url, body, query = '') {
  const answer = await fetch(`${url}/v1/streams${query}`, { method: 'POST', body: JSON.stringify(body) });
  assert.equal(answer.status, 200);
  const lines = (await answer.text()).split('\n').filter((line) => line.startsWith('data:'));
  return lines.map((line) => line.slice(5).trim());
}

for (const api of ['chat', 'responses']) {
  describe(`aimock over ${api}`, () => {
    let mock;
    let gateway;
    let client;

    before(async () => {
      mock = new LLMock({ port: 0, host: '127.0.0.1' });
      teach(mock);
      await mock.start();
      gateway = await startGateway(`${mock.url}/v1`, api, { STREAMS__DISCONNECT_GRACE: '0s' });
      client = gateway.client();
    });

    after(async () => {
      await gateway?.stop();
      await mock?.stop();
    });

    for (const word of ['plainly', 'slowly']) {
      test(`a chat completion comes ${word}, streamed and unstreamed`, async () => {
        const seen = await readChat(await client.chat.completions.create(chat(word, { stream: true })));
        assert.equal(seen.error, undefined);
        assert.equal(seen.text, SENTENCE);
        assert.equal(seen.finish, 'stop');
        assert.equal(seen.ids.size, 1);
        const whole = await client.chat.completions.create(chat(word));
        assert.equal(whole.choices[0].message.content, SENTENCE);
        assert.equal(whole.choices[0].finish_reason, 'stop');
        assert.deepEqual(counts(whole.usage), USAGE);
      });

      test(`a response comes ${word}, streamed and unstreamed`, async () => {
        const streamed = await readResponses(await client.responses.create(responses(word, { stream: true })));
        assert.equal(streamed.status, 'completed');
        assert.equal(textOf(streamed), SENTENCE);
        const whole = await client.responses.create(responses(word));
        assert.equal(whole.output_text, SENTENCE);
        assert.equal(textOf(await client.responses.retrieve(whole.id)), SENTENCE);
      });
    }

    test('usage is reported if it is requested', async () => {
      const options = { stream: true, stream_options: { include_usage: true } };
      const seen = await readChat(await client.chat.completions.create(chat('plainly', options)));
      assert.deepEqual(counts(seen.usage), USAGE);
    });

    test('reasoning is separate from the answer', async () => {
      const seen = await readChat(await client.chat.completions.create(chat('thoughtfully', { stream: true })));
      assert.deepEqual([seen.reasoning, seen.text], ['Let me think.', SENTENCE]);
      const response = await readResponses(await client.responses.create(responses('thoughtfully', { stream: true })));
      assert.deepEqual(response.output.map((item) => item.type), ['reasoning', 'message']);
      assert.equal(textOf(response), SENTENCE);
    });

    test('a tool is called, streamed and unstreamed, over both APIs', async () => {
      const stream = client.chat.completions.stream(chat('about the weather', { tools: [chatTool] }));
      for (const completion of [
        await stream.finalChatCompletion(),
        await client.chat.completions.create(chat('about the weather', { tools: [chatTool] })),
      ]) {
        const [choice] = completion.choices;
        assert.equal(choice.finish_reason, 'tool_calls');
        assert.deepEqual(choice.message.tool_calls.map((call) => call.function.name), ['get_weather']);
        assert.deepEqual(JSON.parse(choice.message.tool_calls[0].function.arguments), ARGUMENTS);
      }
      const helper = client.responses.stream(responses('about the weather', { tools: [tool] }));
      for (const response of [
        await helper.finalResponse(),
        await client.responses.create(responses('about the weather', { tools: [tool] })),
      ]) {
        assert.deepEqual(response.output.map((item) => item.type), ['function_call']);
        assert.deepEqual(JSON.parse(response.output[0].arguments), ARGUMENTS);
      }
    });

    test("a tool's result is sent after its call", async () => {
      mock.prependFixture({ match: { predicate: (request) => request.messages.at(-1)?.role === 'tool' }, response: { content: 'Take an umbrella.' } });
      const first = await client.chat.completions.create(chat('about the weather', { tools: [chatTool] }));
      const { message } = first.choices[0];
      const messages = [
        ...chat('about the weather').messages,
        message,
        { role: 'tool', tool_call_id: message.tool_calls[0].id, content: 'rain' },
      ];
      const second = await client.chat.completions.create({ model: 'gpt-4o', messages, tools: [chatTool] });
      assert.equal(second.choices[0].message.content, 'Take an umbrella.');
    });

    for (const word of ['truncate', 'disconnect']) {
      test(`an answer cut by aimock (${word}) is a failure and keeps its text`, async () => {
        const seen = await readChat(await client.chat.completions.create(chat(word, { stream: true })));
        assert.ok(seen.error instanceof APIError, `no error after ${seen.text}`);
        assert.equal(seen.error.code, 'upstream_truncated');
        assert.equal(seen.finish, null);
        assert.ok(seen.text.length > 0 && SENTENCE.repeat(50).startsWith(seen.text), seen.text);

        const response = await readResponses(await client.responses.create(responses(word, { stream: true })));
        assert.equal(response.status, 'failed');
        assert.equal(response.error.code, 'upstream_truncated');
        assert.equal(response.error.retryable, true);
        assert.ok(textOf(response).length > 0 && SENTENCE.repeat(50).startsWith(textOf(response)));
        assert.deepEqual((await client.responses.retrieve(response.id)).output, response.output);

        const payloads = await readEventSource(gateway.url, chat(word, { stream: true }), '?dialect=chat');
        assert.equal(JSON.parse(payloads.at(-1)).error.code, 'upstream_truncated');
        assert.ok(!payloads.includes('[DONE]'));
        const bare = await fetch(`${gateway.url}/v1/streams`, { method: 'POST', body: JSON.stringify(chat(word, { stream: true })), headers: { accept: 'text/plain' } });
        await assert.rejects(bare.text(), 'incomplete plain text must break off');
      });
    }

    // aimock cuts streams only, and an unstreamed chat completion is requested unstreamed.
    if (api === 'responses') {
      test('a cut during an unstreamed answer is an error', async () => {
        const cut = (error) => error.status === 502 && error.code === 'upstream_truncated';
        await assert.rejects(client.chat.completions.create(chat('truncate')), cut);
      });
    }

    for (const [word, status, code] of [
      ['refused', 400, 'not_with_me'],
      ['limited', 429, 'rate_limit_exceeded'],
      ['dropped', 500, null],
      ['throttled', 429, null],
    ]) {
      for (const stream of [true, false]) {
        test(`an error of aimock (${word}, stream: ${stream}) keeps its status and message`, async () => {
          for (const create of [
            () => client.chat.completions.create(chat(word, { stream })),
            () => client.responses.create(responses(word, { stream })),
          ]) {
            await assert.rejects(create(), (error) => {
              assert.ok(error instanceof APIError);
              assert.equal(error.status, status);
              if (code) assert.equal(error.code, code);
              if (status === 429) assert.ok(error instanceof RateLimitError && error.headers.get('retry-after'), 'Retry-After is passed on');
              return true;
            });
          }
        });
      }
    }

    for (const [word, code] of [['malformed', 'upstream_malformed'], ['severed', 'upstream_disconnected']]) {
      test(`an invalid answer (${word}) is an upstream error`, async () => {
        const response = await client.responses.create(responses(word, { background: true }));
        let ended = response;
        while (['queued', 'in_progress'].includes(ended.status)) ended = await client.responses.retrieve(response.id);
        assert.deepEqual([ended.status, ended.error.code], ['failed', code]);
        const payloads = await readEventSource(gateway.url, chat(word));
        const last = JSON.parse(payloads.at(-1));
        assert.deepEqual([last.type, last.response.error.code], ['response.failed', code]);
        await assert.rejects(client.chat.completions.create(chat(word)), (error) => error.status === 502 && error.code === code);
      });
    }

    test('a client that leaves cancels its upstream request', async () => {
      const road = await watchedRoad(mock.url);
      const before = await startGateway(`${road.url}/v1`, api, { STREAMS__DISCONNECT_GRACE: '0s' });
      try {
        const stream = await before.client().chat.completions.create(chat('at length', { stream: true }));
        for await (const chunk of stream) {
          if (chunk.choices[0]?.delta.content) break;
        }
        // A connection whose answer was read to the end would be reused.
        await road.deserted();
        assert.equal(road.taken(), 1);
      } finally {
        await before.stop();
        road.close();
      }
    });
  });
}

test("a refused upstream key is 502 upstream_auth", async () => {
  const mock = new LLMock({ port: 0, host: '127.0.0.1', auth: { apiKeys: ['the-right-key'] } });
  teach(mock);
  await mock.start();
  const gateways = [];
  try {
    for (const [key, status] of [['the-right-key', 200], ['a-wrong-key', 502]]) {
      const gateway = await startGateway(`${mock.url}/v1`, 'chat', { UPSTREAMS__0__API_KEY: key });
      gateways.push(gateway);
      const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(chat('plainly')),
      });
      const text = await answer.text();
      assert.equal(answer.status, status, text);
      assert.ok(!text.includes(key));
      if (status === 502) assert.equal(JSON.parse(text).error.code, 'upstream_auth');
    }
  } finally {
    for (const gateway of gateways) await gateway.stop();
    await mock.stop();
  }
});
