// Chat clients over an upstream that speaks Responses: unmodified openai-node (chat completions) and AI SDK.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, jsonSchema, streamText, tool as aiTool } from 'ai';
import { APIError, BadRequestError, RateLimitError } from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { counted, simulator } from './gateway.mjs';
import { startGateway } from './own.mjs';
import { chatTool } from './scenarios.mjs';

const ask = (content, more = {}) => ({ model: 'simulator', messages: [{ role: 'user', content }], ...more });
let gateway;
let client;

before(async () => {
  gateway = await startGateway(`${simulator}/v1`, 'responses');
  client = gateway.client();
});
after(() => gateway?.stop());

test('a stream delivers every token once with one id', async () => {
  const stream = await client.chat.completions.create(ask('[[tokens=6 text=count]]', { stream: true }));
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), counted(6));
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  assert.match(chunks[0].id, /^chatcmpl-/);
  assert.ok(chunks.every((chunk) => chunk.object === 'chat.completion.chunk' && chunk.model === 'simulator' && chunk.usage === undefined));
});

test('an unstreamed answer is one object and the response can be retrieved', async () => {
  const { data: completion, response } = await client.chat.completions.create(ask('[[tokens=6 text=count]]')).withResponse();
  assert.equal(completion.object, 'chat.completion');
  assert.equal(completion.choices[0].message.content, counted(6));
  assert.equal(completion.usage.total_tokens, completion.usage.prompt_tokens + completion.usage.completion_tokens);
  const id = response.headers.get('location').split('/').at(-1);
  assert.equal(completion.id, id.replace('resp_', 'chatcmpl-'));
  assert.equal((await client.responses.retrieve(id)).output_text, counted(6));
});

test('the stream helper gathers text, reasoning, refusals and usage', async () => {
  const counting = client.chat.completions.stream(ask('[[reasoning=4 tokens=6 text=count]]', { stream_options: { include_usage: true } }));
  const completion = await counting.finalChatCompletion();
  assert.equal(completion.choices[0].message.content, counted(6));
  // The helper does not join pieces of reasoning.
  const reasoned = await client.chat.completions.create(ask('[[reasoning=4 tokens=6 text=count]]'));
  assert.equal(reasoned.choices[0].message.reasoning_content, counted(4));
  assert.equal(completion.usage.completion_tokens_details.reasoning_tokens, 4);
  const refused = await client.chat.completions.stream(ask('[[refusal]]')).finalChatCompletion();
  const whole = await client.chat.completions.create(ask('[[refusal]]'));
  assert.ok(refused.choices[0].message.refusal);
  assert.equal(whole.choices[0].message.refusal, refused.choices[0].message.refusal);
});

for (const calls of [1, 3]) {
  test(`${calls} tool call(s) arrive complete, and their results are sent`, async () => {
    const request = ask(`[[calls=${calls}]]`, { tools: [chatTool] });
    const streamed = await client.chat.completions.stream(request).finalChatCompletion();
    const whole = await client.chat.completions.create(request);
    for (const { choices: [choice] } of [streamed, whole]) {
      assert.equal(choice.finish_reason, 'tool_calls');
      assert.equal(new Set(choice.message.tool_calls.map((call) => call.id)).size, calls);
      for (const call of choice.message.tool_calls) {
        assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)).sort(), ['city', 'days']);
      }
      const { message } = choice;
      const results = message.tool_calls.map((call) => ({ role: 'tool', tool_call_id: call.id, content: 'rain' }));
      const next = await client.chat.completions.create({ ...request, messages: [...request.messages, message, ...results] });
      assert.ok(next.choices[0].message.content || next.choices[0].message.tool_calls);
    }
  });
}

test('structured output is parsed, streamed and unstreamed', async () => {
  const Weather = z.object({ city: z.string(), days: z.number().int() });
  const request = ask('weather?', { response_format: zodResponseFormat(Weather, 'weather') });
  Weather.parse((await client.chat.completions.parse(request)).choices[0].message.parsed);
  Weather.parse((await client.chat.completions.stream(request).finalChatCompletion()).choices[0].message.parsed);
});

test('length and content_filter finishes are mapped', async () => {
  for (const [request, reason] of [
    [ask('[[tokens=50]]', { max_completion_tokens: 5 }), 'length'],
    [ask('[[tokens=50]]', { max_tokens: 5 }), 'length'],
    [ask('[[tokens=5 finish=content_filter]]'), 'content_filter'],
  ]) {
    assert.equal((await client.chat.completions.create(request)).choices[0].finish_reason, reason);
    let last;
    for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) last = chunk;
    assert.equal(last.choices[0].finish_reason, reason);
  }
});

for (const fault of ['cut', 'end', 'error', 'malformed', 'bad_utf8']) {
  test(`a broken answer (${fault}) throws`, async () => {
    const request = ask(`[[tokens=20 text=count fault=${fault} after=3]]`);
    const stream = await client.chat.completions.create({ ...request, stream: true });
    let text = '';
    await assert.rejects(
      async () => {
        for await (const chunk of stream) {
          text += chunk.choices[0]?.delta.content ?? '';
          assert.equal(chunk.choices[0]?.finish_reason ?? null, null);
        }
      },
      (error) => error instanceof APIError && Boolean(error.code),
    );
    assert.equal(text, counted(3));
    await assert.rejects(client.chat.completions.create(request), (error) => error instanceof APIError && error.status === 502);
  });
}

test('errors have the classes of the SDK', async () => {
  for (const stream of [true, false]) {
    await assert.rejects(client.chat.completions.create(ask('[[fault=status code=429]]', { stream })), RateLimitError);
    for (const [name, value] of [['n', 2], ['stop', 'x'], ['seed', 7], ['presence_penalty', 1]]) {
      await assert.rejects(
        client.chat.completions.create(ask('hi', { stream, [name]: value })),
        (error) => error instanceof BadRequestError && error.code === 'unsupported_parameter' && error.param === name,
      );
    }
  }
});

// === the AI SDK ===

const model = () => createOpenAI({ baseURL: `${gateway.url}/v1`, apiKey: 'sk-of-a-test' }).chat('simulator');
const weather = () =>
  aiTool({ description: chatTool.function.description, inputSchema: jsonSchema(chatTool.function.parameters), execute: async () => 'rain' });

test('the AI SDK streams a text and reads usage and reason', async () => {
  const result = streamText({ model: model(), prompt: '[[tokens=6 text=count]]', maxRetries: 0 });
  let text = '';
  for await (const piece of result.textStream) text += piece;
  assert.equal(text, counted(6));
  assert.equal(await result.finishReason, 'stop');
  assert.ok((await result.usage).totalTokens > 0);
});

test('the AI SDK generates a text, and calls a tool and answers it', async () => {
  const { text } = await generateText({ model: model(), prompt: '[[tokens=6 text=count]]', maxRetries: 0 });
  assert.equal(text, counted(6));
  const steps = [];
  const result = streamText({
    model: model(),
    prompt: 'What is the weather?',
    tools: { get_weather: weather() },
    stopWhen: ({ steps: done }) => done.length === 2,
    onStepFinish: (step) => void steps.push(step),
    maxRetries: 0,
  });
  await result.consumeStream();
  assert.deepEqual(steps[0].toolCalls.map((call) => call.toolName), ['get_weather']);
  assert.deepEqual(steps[0].toolResults.map((answer) => answer.output), ['rain']);
  assert.equal(steps[1].finishReason, 'stop');
  assert.ok(steps[1].text.length > 0);
});

test('the AI SDK sees a broken answer as an error', async () => {
  const parts = [];
  const result = streamText({ model: model(), prompt: '[[tokens=20 text=count fault=cut after=3]]', maxRetries: 0, onError: () => {} });
  for await (const part of result.fullStream) parts.push(part);
  assert.equal(parts.filter((part) => part.type === 'text-delta').map((part) => part.text).join(''), counted(3));
  assert.ok(parts.some((part) => part.type === 'error'), parts.map((part) => part.type).join());
});
