// openai-node's webhooks, unmodified.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { client, counted } from './gateway.mjs';

// The secret in gateway.yaml.
const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';

test('the SDK unwraps a delivery and rejects a modified one', async () => {
  let told;
  const said = new Promise((resolve) => (told = resolve));
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request.setEncoding('utf8')) body += chunk;
    response.writeHead(204).end();
    told({ body, headers: request.headers });
  }).listen(0, '127.0.0.1');
  try {
    await once(server, 'listening');
    const openai = client();
    const webhook = { url: `http://127.0.0.1:${server.address().port}/hook` };
    const job = await openai.responses.create({ model: 'simulator', input: '[[tokens=6 text=count]]', background: true, webhook });
    const { body, headers } = await said;
    const event = await openai.webhooks.unwrap(body, headers, SECRET);
    assert.deepEqual([event.type, event.id, event.data], ['response.completed', headers['webhook-id'], { id: job.id }]);
    assert.equal((await openai.responses.retrieve(event.data.id)).output_text, counted(6));
    await assert.rejects(openai.webhooks.unwrap(`${body} `, headers, SECRET), /signature/);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});
