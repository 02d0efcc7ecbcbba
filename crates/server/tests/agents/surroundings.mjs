// Shared parts: addresses, agents that run to their end, and what the upstream received.
//
// `cargo xtask test --only agents` installs the agents, starts a simulator and a gateway, and passes their places in the environment.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { text } from 'node:stream/consumers';

function told(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; run these tests with \`cargo xtask test --only agents\``);
  return value.replace(/\/$/, '');
}

export const gateway = told('TOKENWIRE_URL');
const simulator = told('SIMULATOR_URL');
const folder = told('AGENTS');
const python = told('AGENTS_PYTHON');
/** LiteLLM has an environment of its own, that of the other tests. */
const litellm = told('LITELLM_PYTHON');

/** Limit of one agent's program with all its cases, in milliseconds. */
const PATIENCE = 120_000;
/** Nothing outside of this machine is asked: other addresses lead to a port on which nothing listens. */
const NOWHERE = 'http://127.0.0.1:9';

/** Runs an agent's program with these cases. Returns one result per case: its `texts` or its `error`. */
export async function run(program, cases) {
  const interpreter = program.startsWith('litellm') ? litellm : python;
  const [command, args] = program.endsWith('.py') ? [interpreter, ['-B', `${folder}/${program}`]] : ['node', [program]];
  const kept = ['PATH', 'HOME', 'LANG', 'TMPDIR'].filter((name) => process.env[name] !== undefined);
  const child = spawn(command, args, {
    env: {
      ...Object.fromEntries(kept.map((name) => [name, process.env[name]])),
      HTTP_PROXY: NOWHERE,
      HTTPS_PROXY: NOWHERE,
      NO_PROXY: '127.0.0.1',
      LITELLM_LOCAL_MODEL_COST_MAP: 'True',
      PYTHONIOENCODING: 'utf-8',
    },
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: PATIENCE,
  });
  child.stdin.end(JSON.stringify(cases));
  const [stdout, stderr, [code, signal]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  const results = stdout.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
  return cases.map((_, at) => results[at] ?? { error: `${program} ended with ${code ?? signal}\n${stdout}\n${stderr}` });
}

/** Starts a way to the gateway for WebSockets only: agents that fall back to HTTP fail there. Returns its address. */
export async function socketsOnly() {
  const { hostname, port } = new URL(gateway);
  const server = http.createServer((request, response) => {
    // Only a POST starts an answer.
    if (request.method === 'POST') return response.writeHead(405).end('{"error":{"message":"WebSockets only"}}');
    http.get(`${gateway}${request.url}`, (answer) => answer.pipe(response.writeHead(answer.statusCode, answer.headers)));
  });
  server.on('upgrade', (request, near, head) => {
    const far = net.connect(Number(port), hostname);
    const lines = request.rawHeaders.map((text, at) => (at % 2 ? `${text}\r\n` : `${text}: `));
    far.write(`GET ${request.url} HTTP/1.1\r\n${lines.join('')}\r\n`);
    far.write(head);
    near.pipe(far).pipe(near);
    near.on('error', () => far.destroy());
    far.on('error', () => near.destroy());
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  server.unref();
  return `http://127.0.0.1:${server.address().port}`;
}

/** Returns the bodies of the upstream's requests that contain this word, oldest first. */
export async function upstreamSaw(word) {
  const requests = await (await fetch(`${simulator}/requests`)).json();
  return requests.filter(({ body }) => JSON.stringify(body ?? null).includes(word));
}

/**
 * Returns the conversation of an upstream request as a list of `kind: text`: `user`, `assistant`, `call`, `output`, `reasoning` and
 * `system`, whichever API it is in.
 */
export function conversation({ path, body }) {
  return path.endsWith('/responses') ? [body.input].flat().flatMap(item) : body.messages.flatMap(message);
}

function item(item) {
  if (typeof item === 'string') return [['user', item]];
  switch (item.type ?? 'message') {
    case 'message':
      return [[role(item.role), content(item.content)]];
    case 'function_call':
      return [['call', item.call_id, item.arguments]];
    case 'function_call_output':
      return [['output', item.call_id, content(item.output)]];
    case 'reasoning':
      return [['reasoning', item.encrypted_content ?? '', item.id ?? '']];
    default:
      return [[item.type]];
  }
}

function message({ role: name, content: said, tool_calls: calls = [], tool_call_id: id, ...rest }) {
  if (name === 'tool') return [['output', id, content(said)]];
  const parts = [];
  if (rest.reasoning_content) parts.push(['reasoning', rest.reasoning_content]);
  const spoken = content(said);
  if (spoken) parts.push([role(name), spoken]);
  return [...parts, ...(calls ?? []).map((call) => ['call', call.id, call.function.arguments])];
}

const role = (name) => (name === 'developer' ? 'system' : name);

const content = (said) => (typeof said === 'string' ? said : (said ?? []).map((part) => part.text ?? '').join(''));
