// The OpenAI Agents SDK for JavaScript over both APIs, and over a WebSocket.
import { Agent, OpenAIProvider, Runner, setTracingDisabled, tool } from '@openai/agents';
import { WebSocket } from 'ws';
import { z } from 'zod';
import { apiKey, run, weather } from './agent.mjs';

// Traces would go to OpenAI.
setTracingDisabled(true);
// Node has one since version 22.
globalThis.WebSocket ??= WebSocket;

async function turns({ url, model, stream, questions }, { byId = false, ...options }) {
  const modelProvider = new OpenAIProvider({ baseURL: url, apiKey, ...options });
  const runner = new Runner({ modelProvider });
  const parameters = z.object({ city: z.string() });
  const tools = [tool({ name: weather.name, description: weather.description, parameters, execute: async (input) => weather.answer(input) })];
  const agent = new Agent({ name: 'assistant', instructions: 'Be brief.', model, tools });
  const texts = [];
  let history = [];
  let previousResponseId;
  for (const question of questions) {
    const said = [...history, { role: 'user', content: question }];
    const result = await runner.run(agent, said, { stream, previousResponseId });
    if (stream) await result.completed;
    texts.push(result.finalOutput);
    if (byId) previousResponseId = result.lastResponseId;
    else history = result.history;
  }
  await modelProvider.close();
  return texts;
}

await run({
  chat: (one) => turns(one, { useResponses: false }),
  responses: (one) => turns(one, { useResponses: true }),
  'previous response': (one) => turns(one, { useResponses: true, byId: true }),
  websocket: (one) => turns(one, { useResponses: true, useResponsesWebSocket: true }),
});
