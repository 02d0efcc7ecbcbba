// Responses of the unmodified openai-node: over SSE, and over a WebSocket with the SDK's own class.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { BadRequestError, NotFoundError } from 'openai';
import { TERMINAL, client, counted } from './gateway.mjs';
import { scenarios } from './scenarios.mjs';

function check(response, scenario) {
  assert.equal(response.status, scenario.status ?? 'completed');
  assert.deepEqual(response.output.map((item) => item.type), scenario.items);
  if (scenario.text !== undefined) assert.equal(response.output_text, scenario.text);
  assert.equal(Boolean(response.error), scenario.status === 'failed');
}

for (const scenario of scenarios) {
  const params = { model: 'simulator', ...scenario.body };

  test(`${scenario.name}: the stream helper reads to its end`, async () => {
    const stream = client().responses.stream(params);
    const types = [];
    for await (const event of stream) types.push(event.type);
    assert.equal(types[0], 'response.created');
    assert.equal(types.at(-1), `response.${scenario.status ?? 'completed'}`);
    check(await stream.finalResponse(), scenario);
  });

  test(`${scenario.name}: the plain stream ends with one terminal event`, async () => {
    const types = [];
    for await (const event of await client().responses.create({ ...params, stream: true })) types.push(event.type);
    assert.equal(types.filter((type) => TERMINAL.includes(type)).length, 1);
  });

  test(`${scenario.name}: the unstreamed object is the same`, async () => {
    check(await client().responses.create(params), scenario);
  });

  test(`${scenario.name}: the SDK's WebSocket delivers the same`, async () => {
    const socket = new ResponsesWS(client());
    try {
      const response = await new Promise((resolve, reject) => {
        socket.on('error', reject);
        socket.on('event', (event) => TERMINAL.includes(event.type) && resolve(event.response));
        socket.send({ type: 'response.create', ...params });
      });
      check({ ...response, output_text: scenario.text }, scenario);
    } finally {
      socket.close();
    }
  });
}

test('the helper shows the growing text', async () => {
  const snapshots = [];
  const stream = client().responses.stream({ model: 'simulator', input: '[[tokens=4 text=count]]' });
  stream.on('response.output_text.delta', (event) => snapshots.push(event.snapshot));
  await stream.finalResponse();
  assert.deepEqual(snapshots, [1, 2, 3, 4].map(counted));
});

test('the helper resumes a background response', async () => {
  const job = await client().responses.create({ model: 'simulator', input: '[[tokens=20 text=count tbt=10ms]]', background: true });
  assert.equal(job.status, 'queued');
  const stream = client().responses.stream({ response_id: job.id, starting_after: 5 });
  const numbers = [];
  stream.on('event', (event) => numbers.push(event.sequence_number));
  assert.equal((await stream.finalResponse()).output_text, counted(20));
  assert.equal(numbers[0], 6);
  const tail = [];
  for await (const event of await client().responses.retrieve(job.id, { stream: true, starting_after: 5 })) tail.push(event.sequence_number);
  assert.deepEqual(tail, numbers);
});

test('a background response is cancelled and deleted', async () => {
  const job = await client().responses.create({ model: 'simulator', input: '[[ttft=1h]]', background: true });
  assert.equal((await client().responses.cancel(job.id)).status, 'cancelled');
  await client().responses.delete(job.id);
  await assert.rejects(client().responses.retrieve(job.id), NotFoundError);
});

test('previous_response_id continues a conversation', async () => {
  const first = await client().responses.create({ model: 'simulator', input: 'hello [[tokens=3]]' });
  const second = await client().responses.create({ model: 'simulator', input: 'more [[tokens=3]]', previous_response_id: first.id });
  assert.equal(second.previous_response_id, first.id);
  assert.ok(second.usage.input_tokens > first.usage.input_tokens);
  const items = [];
  for await (const item of client().responses.inputItems.list(first.id)) items.push(item);
  assert.deepEqual(items.map((item) => item.role), ['user']);
});

test('a missing input is a bad request that names it', async () => {
  await assert.rejects(client().responses.create({ model: 'simulator' }), (error) => error instanceof BadRequestError && error.param === 'input');
});

test('an error of one create keeps the socket open for the next', async () => {
  const socket = new ResponsesWS(client());
  try {
    const error = await new Promise((resolve) => {
      socket.on('error', resolve);
      socket.send({ type: 'response.create', model: 'simulator' });
    });
    assert.equal(error.error.error.param, 'input');
    const response = await new Promise((resolve) => {
      socket.on('response.completed', (event) => resolve(event.response));
      socket.send({ type: 'response.create', model: 'simulator', input: '[[tokens=2]]' });
    });
    assert.equal(response.status, 'completed');
  } finally {
    socket.close();
  }
});
