// Each agent, unmodified, over both kinds of upstream: a question with a tool loop, then one that relies on the first.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import { conversation, gateway, run, socketsOnly, upstreamSaw } from './surroundings.mjs';

const BOTH = ['chat', 'responses'];

/**
 * The programs with their ways to ask. `reasons` names the kinds of upstream that get the reasoning of the tool call back.
 */
const AGENTS = {
  'ai_sdk_agent.mjs': {
    'openai responses': { reasons: BOTH },
    'openai responses, not stored': { reasons: BOTH },
    'openai chat': {},
    'openai-compatible': { reasons: ['chat'] },
    'open-responses': { reasons: BOTH },
  },
  'openai_agents_agent.mjs': {
    chat: {},
    responses: { reasons: BOTH },
    'previous response': { reasons: BOTH },
    websocket: { reasons: BOTH },
  },
  'codex_agent.mjs': {
    responses: { tool: 'exec_command', streams: [true], reasons: BOTH },
    websocket: { tool: 'exec_command', streams: [true], reasons: BOTH },
  },
  'pydantic_ai_agent.py': {
    chat: { reasons: ['chat'] },
    responses: { reasons: BOTH },
    'previous response': { reasons: BOTH },
    'not stored': { reasons: BOTH },
  },
  'openai_agents_agent.py': {
    chat: {},
    responses: { reasons: BOTH },
    'previous response': { reasons: BOTH },
    websocket: { reasons: BOTH },
  },
  'langchain_agent.py': {
    chat: {},
    responses: { reasons: BOTH },
    'previous response': { reasons: BOTH },
    'not stored': { reasons: BOTH },
  },
  'litellm_agent.py': { chat: {}, responses: {} },
};

/** The arguments of the call and what its output contains. */
const TOOLS = {
  get_weather: [{ city: 'Oslo' }, 'rain in Oslo'],
  exec_command: [{ cmd: 'echo rain in Oslo' }, 'rain in Oslo'],
};

const SOCKETS = await socketsOnly();

for (const [program, ways] of Object.entries(AGENTS)) {
  describe(program, () => {
    const cases = Object.entries(ways).flatMap(([way, { tool = 'get_weather', streams = [false, true] }]) =>
      BOTH.flatMap((upstream) => streams.map((stream) => described(way, upstream, stream, tool))));
    // At the first test, so that a pattern of names runs only the programs that it names.
    let results;

    for (const [at, { way, upstream, stream, tool, word }] of cases.entries()) {
      test(`${way}, ${stream ? 'streamed' : 'whole'}, over a ${upstream} upstream`, async () => {
        results ??= run(program, cases);
        const { texts, error } = (await results)[at];
        const asked = await upstreamSaw(word);
        try {
          assert.equal(error, undefined);
          // The simulator quotes the tool's output, and the question before the last one.
          assert.match(texts[0], /The tool came back with/);
          assert.match(texts[0], new RegExp(TOOLS[tool][1]));
          assert.match(texts[1], new RegExp(`Before that you asked “.*${word}`));
          check(asked, ways[way].reasons?.includes(upstream) ?? false, texts, tool);
        } catch (problem) {
          problem.message += `\nUpstream: ${JSON.stringify(asked.map(({ path, status, body }) => ({ path, status, said: body && conversation({ path, body }) })), null, 1)}`;
          throw problem;
        }
      });
    }
  });
}

function described(way, upstream, stream, tool) {
  const word = `m${randomBytes(6).toString('hex')}`;
  const steered = `[[tool=${tool} arguments=${encodeURIComponent(JSON.stringify(TOOLS[tool][0]))}]]`;
  const questions = [`Weather, ${word}? ${steered}`, 'What did I ask before? [[calls=0]]'];
  const url = `${way === 'websocket' ? SOCKETS : gateway}/v1`;
  return { way, url, upstream, stream, tool, word, model: `gpt-5-over-${upstream}`, questions };
}

/** Checks the three requests that the upstream received: the question, the tool's output, the second question. */
function check(asked, reasons, texts, tool) {
  assert.deepEqual(asked.map(({ status }) => status), [200, 200, 200]);
  const conversations = asked.map(conversation);
  const kinds = conversations.map((said) => said.map(([kind]) => kind).filter((kind) => !['system', 'reasoning'].includes(kind)));
  // Codex describes its surroundings in a message of the user before the question.
  const [first, loop, second] = kinds.map((list) => list.slice(kinds[0].length - 1));
  assert.deepEqual(first, ['user']);
  assert.deepEqual(loop, ['user', 'call', 'output']);
  assert.equal(second.join(), 'user,call,output,assistant,user');

  for (const said of conversations.slice(1)) {
    const [, id, given] = said.find(([kind]) => kind === 'call');
    assert.deepEqual(JSON.parse(given), TOOLS[tool][0]);
    const [, answered, output] = said.find(([kind]) => kind === 'output');
    assert.equal(answered, id, 'the output names its call');
    assert.match(output, new RegExp(TOOLS[tool][1]));
    const names = said.map(([kind]) => kind);
    if (reasons) assert.equal(names[names.indexOf('call') - 1], 'reasoning', 'reasoning stands before its call');
  }
  assert.equal(conversations[2].findLast(([kind]) => kind === 'assistant')[1], texts[0]);
}
