// The AI SDK with each of its providers for OpenAI's APIs.
import { createOpenResponses } from '@ai-sdk/open-responses';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';
import { apiKey, run, weather } from './agent.mjs';

const openai = ({ url }) => createOpenAI({ baseURL: url, apiKey });
const compatible = ({ url }) => createOpenAICompatible({ name: 'tokenwire', baseURL: url, apiKey });
const openResponses = ({ url }) => createOpenResponses({ name: 'tokenwire', url: `${url}/responses`, apiKey });
const tools = {
  [weather.name]: tool({ description: weather.description, inputSchema: z.object({ city: z.string() }), execute: weather.answer }),
};

async function turns({ stream, questions }, model, providerOptions) {
  const texts = [];
  const messages = [];
  for (const question of questions) {
    messages.push({ role: 'user', content: question });
    const options = { model, instructions: 'Be brief.', messages, tools, stopWhen: stepCountIs(5), maxRetries: 0, providerOptions };
    let failure;
    const result = stream ? streamText({ ...options, onError: ({ error }) => (failure = error) }) : await generateText(options);
    const text = await result.text;
    if (failure) throw failure;
    texts.push(text);
    messages.push(...(await result.responseMessages));
  }
  return texts;
}

await run({
  'openai responses': (one) => turns(one, openai(one).responses(one.model)),
  'openai responses, not stored': (one) => turns(one, openai(one).responses(one.model), { openai: { store: false } }),
  'openai chat': (one) => turns(one, openai(one).chat(one.model)),
  'openai-compatible': (one) => turns(one, compatible(one)(one.model)),
  'open-responses': (one) => turns(one, openResponses(one)(one.model)),
});
