// An upstream that fails before its first token: the gateway retries, openai-node does not.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';
import OpenAI, { APIError } from 'openai';
import { client, counted, simulator } from './gateway.mjs';
import { startGateway } from './own.mjs';

const FAULTS = ['status code=503', 'refuse', 'cut after=0'];

/** A failed response, for which the SDK throws nothing. */
class Failed extends Error {}

const WAYS = {
  'chat, streamed': async (openai, content) => {
    const stream = await openai.chat.completions.create({ ...chat(content), stream: true });
    let text = '';
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
    return text;
  },
  'chat, whole': async (openai, content) => (await openai.chat.completions.create(chat(content))).choices[0].message.content,
  'responses, streamed': async (openai, content) => {
    let last;
    for await (const event of await openai.responses.create({ ...response(content), stream: true })) last = event;
    return said(last.response);
  },
  'responses, whole': async (openai, content) => said(await openai.responses.create(response(content))),
};

const chat = (content) => ({ model: 'simulator', messages: [{ role: 'user', content }] });
const response = (input) => ({ model: 'simulator', input });

function said(response) {
  if (response.status === 'failed') throw new Failed(response.error.code);
  return response.output.flatMap((item) => item.content ?? []).map((part) => part.text).join('');
}

/** Returns the number of upstream requests with this id. Other tests send requests at the same time. */
async function asked(id) {
  const records = await (await fetch(`${simulator}/requests`)).json();
  return records.filter((request) => JSON.stringify(request.body).includes(`id=${id}]]`)).length;
}

let unforgiving;
before(async () => {
  unforgiving = await startGateway(`${simulator}/v1`, 'chat', { RETRY__ATTEMPTS: '0' });
});
after(() => unforgiving?.stop());

for (const [way, ask] of Object.entries(WAYS)) {
  for (const fault of FAULTS) {
    test(`one failure is hidden by a retry (${way}, ${fault})`, async () => {
      const id = randomUUID();
      assert.equal(await ask(client(), `[[tokens=3 text=count fault=${fault} times=1 id=${id}]]`), counted(3));
      assert.equal(await asked(id), 2);
    });

    test(`without retries a failure is reported once (${way}, ${fault})`, async () => {
      const id = randomUUID();
      // With the SDK's default retries.
      const openai = new OpenAI({ baseURL: `${unforgiving.url}/v1`, apiKey: 'sk-of-a-test' });
      await assert.rejects(ask(openai, `[[tokens=3 text=count fault=${fault} id=${id}]]`), (error) => {
        assert.ok(error instanceof APIError || error instanceof Failed, error);
        if (error.status) assert.equal(error.headers.get('x-should-retry'), 'false');
        // A failure after the head is an event or part of the object. An unstreamed chat completion has neither.
        assert.equal(Boolean(error.status), fault !== 'cut after=0' || way === 'chat, whole');
        return true;
      });
      // A request on an idle connection may not have been read. It is sent once more.
      const most = fault === 'refuse' ? 2 : 1;
      const times = await asked(id);
      assert.ok(times >= 1 && times <= most, `the upstream was asked ${times} times`);
    });
  }
}
