// The unmodified Vercel AI SDK with Tokenwire: text over both of OpenAI's APIs, and a tool call.
import { createOpenAI } from "@ai-sdk/openai";
import { streamText, tool } from "ai";
import { z } from "zod";

const model = process.env.MODEL ?? "simulator";
const openai = createOpenAI({ baseURL: `${process.env.GATEWAY_URL ?? "http://localhost:3000"}/v1`, apiKey: "unused" });
const write = (text) => process.stdout.write(text);
const fail = ({ error }) => {
  throw error;
};

const ways = {
  async chat(prompt) {
    for await (const piece of streamText({ model: openai.chat(model), prompt, onError: fail }).textStream) write(piece);
  },

  async responses(prompt) {
    for await (const piece of streamText({ model: openai.responses(model), prompt, onError: fail }).textStream) write(piece);
  },

  async tools() {
    const weather = tool({
      description: "Returns the weather of a city",
      inputSchema: z.object({ city: z.string() }),
    });
    const result = streamText({
      model: openai.responses(model),
      prompt: "What is the weather in Lisbon?",
      tools: { weather },
      toolChoice: "required",
      onError: fail,
    });
    for (const call of await result.toolCalls) write(`${call.toolName} ${JSON.stringify(call.input)}`);
  },
};

const [prompt = "Tell me something", ...chosen] = process.argv.slice(2);
for (const name of chosen.length ? chosen : Object.keys(ways)) {
  write(`== ${name}\n`);
  await ways[name](prompt);
  write("\n");
}
