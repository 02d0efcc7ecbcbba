// Codex CLI: `codex exec`, then `codex exec resume`.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { run } from './agent.mjs';

const program = path.resolve('node_modules/.bin/codex');

/** Runs Codex and returns its last message. */
async function codex(home, args) {
  const child = spawn(program, ['exec', ...args], {
    cwd: path.join(home, 'work'),
    env: { PATH: process.env.PATH, HOME: home, CODEX_HOME: home },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  if (code !== 0) throw new Error(`codex exec ${args.join(' ')} ended with ${code}\n${stdout}\n${stderr}`);
  const events = stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  const messages = events.filter(({ type, item }) => type === 'item.completed' && item.type === 'agent_message');
  if (!messages.length) throw new Error(`codex exec ${args.join(' ')} printed no message\n${stdout}\n${stderr}`);
  return messages.at(-1).item.text;
}

async function turns({ url, model, questions }, supportsWebsockets) {
  // Codex warns about a home below the folder for temporary files.
  const home = await mkdtemp(path.resolve('codex-'));
  try {
    await mkdir(path.join(home, 'work'));
    await writeFile(path.join(home, 'config.toml'), `
model = "${model}"
model_provider = "tokenwire"
# The commands come from the test, and containers cannot nest a sandbox.
sandbox_mode = "danger-full-access"
approval_policy = "never"
check_for_update_on_startup = false

[model_providers.tokenwire]
name = "Tokenwire"
base_url = "${url}"
wire_api = "responses"
supports_websockets = ${supportsWebsockets}
request_max_retries = 0
stream_max_retries = 0

[analytics]
enabled = false
`);
    const texts = [];
    for (const question of questions) {
      const resume = texts.length ? ['resume', '--last'] : [];
      texts.push(await codex(home, [...resume, '--json', '--skip-git-repo-check', question]));
    }
    return texts;
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

await run({
  responses: (one) => turns(one, false),
  websocket: (one) => turns(one, true),
});
