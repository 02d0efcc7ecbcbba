// openai-node's chat completions, unmodified.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { APIError, NotFoundError, RateLimitError } from 'openai';
import { client, counted, requests } from './gateway.mjs';
import { chatTool } from './scenarios.mjs';

const ask = (content) => ({ model: 'simulator', messages: [{ role: 'user', content }] });

test('a stream delivers every token once', async () => {
  const stream = await client().chat.completions.create({ ...ask('[[tokens=6 text=count]]'), stream: true });
  let text = '';
  let finish = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? '';
    finish = chunk.choices[0]?.finish_reason ?? finish;
  }
  assert.equal(text, counted(6));
  assert.equal(finish, 'stop');
});

test('an unstreamed answer is one object', async () => {
  const completion = await client().chat.completions.create(ask('[[tokens=6 text=count]]'));
  assert.equal(completion.choices[0].message.content, counted(6));
  assert.equal(completion.usage.total_tokens, completion.usage.prompt_tokens + completion.usage.completion_tokens);
});

test('the stream helper reads to its end', async () => {
  const stream = client().chat.completions.stream(ask('[[tokens=6 text=count]]'));
  assert.equal((await stream.finalChatCompletion()).choices[0].message.content, counted(6));
});

test('the stream helper gathers several choices', async () => {
  const completion = await client().chat.completions.stream({ ...ask('[[tokens=6 text=count]]'), n: 2 }).finalChatCompletion();
  assert.deepEqual(completion.choices.map((choice) => choice.message.content), [counted(6), counted(6)]);
});

test('the stream helper reads reasoning, refusals and usage', async () => {
  const reasoned = client().chat.completions.stream({ ...ask('[[reasoning=4 tokens=2]]'), stream_options: { include_usage: true } });
  assert.ok((await reasoned.finalChatCompletion()).usage.total_tokens > 0);
  const refused = await client().chat.completions.stream(ask('[[refusal]]')).finalChatCompletion();
  assert.ok(refused.choices[0].message.refusal);
});

for (const calls of [1, 3]) {
  test(`the stream helper gathers ${calls} tool call(s)`, async () => {
    const stream = client().chat.completions.stream({ ...ask(`[[calls=${calls}]]`), tools: [chatTool] });
    const { choices: [choice] } = await stream.finalChatCompletion();
    assert.equal(choice.finish_reason, 'tool_calls');
    assert.equal(new Set(choice.message.tool_calls.map((call) => call.id)).size, calls);
    for (const call of choice.message.tool_calls) {
      assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)).sort(), ['city', 'days']);
    }
  });
}

for (const fault of ['cut', 'end', 'error', 'malformed', 'bad_utf8']) {
  test(`a broken stream (${fault}) throws`, async () => {
    const stream = await client().chat.completions.create({ ...ask(`[[tokens=20 text=count fault=${fault} after=3]]`), stream: true });
    let text = '';
    await assert.rejects(
      async () => {
        for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
      },
      // An error object of the upstream is passed on as it is, which need not have a code.
      (error) => error instanceof APIError && (Boolean(error.code) || fault === 'error'),
    );
    assert.ok(text.startsWith(counted(3)), text);
  });
}

test('leaving early cancels the upstream request', async () => {
  const stream = await client().chat.completions.create({ ...ask('[[tokens=1000 tbt=20ms]]'), stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) break;
  }
  const completion = await client().chat.completions.create(ask('[[tokens=6 text=count]]'));
  assert.equal(completion.choices[0].message.content, counted(6));
});

test('errors have the classes of the SDK and are not retried in vain', async () => {
  await assert.rejects(client().chat.completions.create({ ...ask('hi'), model: 'unknown-model' }), NotFoundError);
  const once = new URL(`${client().baseURL}/chat/completions`);
  const body = JSON.stringify(ask('[[fault=status code=429]]'));
  const before = await requests();
  await fetch(once, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
  const byTheGateway = (await requests()) - before;
  await assert.rejects(client().chat.completions.create(ask('[[fault=status code=429]]')), RateLimitError);
  assert.equal((await requests()) - before, 2 * byTheGateway);
});

test('models are listed', async () => {
  const ids = [];
  for await (const model of client().models.list()) ids.push(model.id);
  assert.ok(ids.includes('simulator'), ids.join());
});
