// Streams of openai-node during a restart: sdk.mjs <base URL> <streams of each kind>.
//
// Prints a line once the first token of a stream has come. Fails unless every stream is complete.
import assert from "node:assert/strict";

import OpenAI from "openai";

const STEERING = "[[tokens=20 tbt=100ms text=count]]";
const TEXT = Array.from({ length: 20 }, (_, at) => `t${at}`).join(" ");

async function chat(client) {
  const messages = [{ role: "user", content: STEERING }];
  const stream = await client.chat.completions.create({ model: "simulator", stream: true, messages });
  let text = "";
  const finishes = [];
  for await (const chunk of stream) {
    for (const choice of chunk.choices) {
      if (choice.delta.content && !text) console.log("begun");
      text += choice.delta.content ?? "";
      if (choice.finish_reason) finishes.push(choice.finish_reason);
    }
  }
  assert.deepEqual([text.trim(), finishes], [TEXT, ["stop"]]);
}

async function responses(client) {
  const stream = await client.responses.create({ model: "simulator", stream: true, input: STEERING });
  let text = "";
  const ends = [];
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") {
      if (!text) console.log("begun");
      text += event.delta;
    }
    if (/^response\.(completed|incomplete|failed)$/.test(event.type)) ends.push(event.type);
  }
  assert.deepEqual([text.trim(), ends], [TEXT, ["response.completed"]]);
}

const [baseURL, count] = process.argv.slice(2);
// No retries: each would hide an error, and ask the upstream twice.
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const streams = Array.from({ length: Number(count) }, () => [chat(client), responses(client)]);
await Promise.all(streams.flat());
