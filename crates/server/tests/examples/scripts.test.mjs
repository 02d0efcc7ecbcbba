// The example programs: each prints the complete answer in each of its ways.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { blocks, counted, examples, freePort, question, root, run, sections, serve, simulator, told, until, upstreamSaw } from './surroundings.mjs';

const WAYS = ['chat', 'responses', 'websocket', 'background'];

test('curl', async () => {
  const { stdout } = await run('bash', [path.join(root, 'examples/curl/stream.sh'), question(6).text]);
  const seen = sections(stdout);
  assert.equal(Object.keys(seen).length, 5);
  assert.equal(seen['the text as it is streamed'], counted(6));
  assert.match(seen['numbered events, the first three lines of them'], /^retry: 2000\nid: resp_\w+\.0\ndata: \{"type":"response\.created"/);
  assert.equal(seen['the same stream again, after event 3'], '4');
  assert.match(seen["as OpenAI's chat completions"], /^data: \[DONE\]/);
  assert.equal(seen['in the background: start now, read later'], counted(6));
});

test('curl reports the error and fails', async () => {
  const gone = `http://127.0.0.1:${await freePort()}`;
  await assert.rejects(run('bash', [path.join(root, 'examples/curl/stream.sh')], { env: { GATEWAY_URL: gone } }), /curl: \(7\)/);
});

test('openai-python', async () => {
  const { stdout } = await run(told('EXAMPLE_OPENAI_PYTHON'), ['-B', `${examples}/openai-python/main.py`, question(6, { tbt: '2ms' }).text]);
  assert.deepEqual(sections(stdout), Object.fromEntries(WAYS.map((way) => [way, counted(6)])));
});

test('openai-node', async () => {
  const { stdout } = await run('node', ['main.mjs', question(6, { tbt: '2ms' }).text], { cwd: `${examples}/openai-node` });
  assert.deepEqual(sections(stdout), Object.fromEntries(WAYS.map((way) => [way, counted(6)])));
});

test('Vercel AI SDK', async () => {
  const { stdout } = await run('node', ['main.mjs', question(6).text], { cwd: `${examples}/vercel-ai-sdk` });
  const { tools, turns, ...texts } = sections(stdout);
  assert.deepEqual(texts, { chat: counted(6), responses: counted(6) });
  const [first, ...second] = turns.split('\n');
  assert.equal(first, counted(6));
  assert.ok(second.join('').length > 0, 'the second turn has an answer');
  assert.match(tools, /^weather \{"city":".+"\}\n→ sunny\n.+/);
});

test('LangChain', async () => {
  const { stdout } = await run(told('EXAMPLE_LANGCHAIN'), ['-B', `${examples}/langchain/main.py`, question(6).text], {
    env: { PYTHONIOENCODING: 'utf-8' },
  });
  const { tools, ...texts } = sections(stdout);
  assert.deepEqual(texts, { chat: counted(6), responses: counted(6) });
  assert.match(tools, /^weather \{'city': '.+'\} → sunny in .+$/);
});

test('a notification on a word comes while the answer streams', async () => {
  const [port, gatewayPort] = [await freePort(), await freePort()];
  const receiver = spawn('node', [path.join(root, 'examples/watch-webhook/main.mjs')], { env: { PATH: process.env.PATH, PORT: `${port}` }, stdio: ['ignore', 'pipe', 'inherit'] });
  let printed = '';
  receiver.stdout.setEncoding('utf8').on('data', (text) => (printed += text));
  const stop = await serve(told('GATEWAY'), ['--port', `${gatewayPort}`, '--config', path.join(root, 'examples/watch-webhook/tokenwire.yaml')], {
    port: gatewayPort,
    env: { OPENAI_BASE_URL: `${simulator}/v1`, TOKENWIRE_DEFAULT_MODEL: 'simulator', TOKENWIRE_WEBHOOKS__URL: `http://127.0.0.1:${port}/` },
  });
  try {
    await until('the receiver listens', () => printed.includes('waiting on'));
    const poem = encodeURIComponent('Write a short poem about rivers.');
    const answer = await fetch(`http://127.0.0.1:${gatewayPort}/v1/streams?input=${poem}`);
    assert.match(await answer.text(), /river|stream/);
    await until('the notification', () => /rivers in resp_\w+, text up to byte \d+: ….*(river|stream)\n/s.test(printed));
  } finally {
    receiver.kill();
    await stop();
  }
});

test('webhook receiver', async () => {
  const { word, text } = question(6, { tbt: '2ms' });
  const { stdout } = await run(told('EXAMPLE_WEBHOOK_RECEIVER'), ['-B', `${examples}/webhook-receiver/main.py`, text]);
  assert.match(stdout, /^(resp_\w+) is queued\n\1 is completed \(response\.completed\)\n== answer\n/);
  assert.equal(sections(stdout).answer, counted(6));
  const [asked] = await upstreamSaw(word);
  assert.ok(!JSON.stringify(asked).includes('webhook'), 'the upstream must not get the webhook');
});

describe('the Rust client', () => {
  test('resumes after a cut with one upstream request', async () => {
    const { word, text } = question(30, { tbt: '5ms' });
    const { stdout, stderr } = await run(told('EXAMPLE_RUST_CLIENT'), [text, '--cut-after', '3']);
    assert.equal(stdout, `${counted(30)}\n`);
    assert.match(stderr, /the connection broke; resuming/);
    assert.equal((await upstreamSaw(word)).length, 1);
  });

  test('reports a failure', async () => {
    const { text } = question(9, { more: 'fault=cut after=3' });
    await assert.rejects(run(told('EXAMPLE_RUST_CLIENT'), [text]), /broke in the middle of the answer/);
  });
});

describe('the application that embeds', () => {
  let url;
  let stop;
  test.before(async () => {
    const port = await freePort();
    url = `http://127.0.0.1:${port}`;
    stop = await serve(told('EXAMPLE_EMBED'), [], { port, env: { PORT: `${port}`, OPENAI_BASE_URL: `${simulator}/v1`, MODEL: 'simulator' } });
  });
  test.after(() => stop());

  test('serves its own routes', async () => {
    assert.equal((await fetch(url)).status, 200);
    assert.equal((await fetch(`${url}/v1/streams`)).status, 404);
  });

  test('streams its answer, resumes after the last event, and ends with 204', async () => {
    const on = encodeURIComponent(question(6).text);
    const seen = [];
    for await (const block of blocks(await fetch(`${url}/haiku?on=${on}`))) seen.push(block);
    const text = seen.map(({ data }) => JSON.parse(data)).filter(({ type }) => type === 'response.output_text.delta').map(({ delta }) => delta);
    assert.equal(text.join(''), counted(6));
    const again = [];
    for await (const block of blocks(await fetch(`${url}/haiku?on=${on}`, { headers: { 'last-event-id': seen[4].id } }))) again.push(block);
    assert.deepEqual(again, seen.slice(5));
    assert.equal((await fetch(`${url}/haiku?on=${on}`, { headers: { 'last-event-id': seen.at(-1).id } })).status, 204);
    assert.equal((await fetch(`${url}/haiku?on=${on}`, { headers: { 'last-event-id': 'nonsense' } })).status, 400);
  });

  test('serves lanes on a WebSocket', async () => {
    const socket = new WebSocket(`${url.replace('http', 'ws')}/socket`);
    const texts = { a: '', b: '' };
    let left = 2;
    await new Promise((resolve, reject) => {
      socket.on('error', reject).on('close', () => reject(new Error('closed')));
      socket.on('open', () => {
        for (const [lane, tokens] of [['a', 5], ['b', 9]]) {
          socket.send(JSON.stringify({ type: 'response.create', stream_id: lane, input: question(tokens).text }));
        }
      });
      socket.on('message', (data) => {
        const event = JSON.parse(data);
        if (event.type === 'response.output_text.delta') texts[event.stream_id] += event.delta;
        if (event.type === 'response.completed' && (left -= 1) === 0) resolve();
        if (/failed|error/.test(event.type)) reject(new Error(`${data}`));
      });
    });
    socket.terminate();
    assert.deepEqual(texts, { a: counted(5), b: counted(9) });
  });
});

test('every example has one command and is listed in the index', async () => {
  const folder = path.join(root, 'examples');
  const index = await readFile(path.join(folder, 'README.md'), 'utf8');
  const chinese = await readFile(path.join(folder, 'README.zh-CN.md'), 'utf8');
  for (const entry of (await readdir(folder, { withFileTypes: true })).filter((entry) => entry.isDirectory())) {
    const readme = await readFile(path.join(folder, entry.name, 'README.md'), 'utf8');
    const commands = [...readme.matchAll(/^```sh\n([^]*?)```$/gm)].map((match) => match[1].trim());
    assert.equal(commands.length, 1, entry.name);
    assert.ok(!commands[0].includes('\n'), `${entry.name} takes more than one line`);
    assert.ok(index.includes(`(${entry.name})`), `${entry.name} is not in README.md`);
    assert.ok(chinese.includes(`(${entry.name})`), `${entry.name} is not in README.zh-CN.md`);
  }
});
