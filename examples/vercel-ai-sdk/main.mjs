// The unmodified Vercel AI SDK with Tokenwire: text over both of OpenAI's APIs, a second turn, and a tool whose result the model gets.
import { createOpenAI } from "@ai-sdk/openai";
import { stepCountIs, streamText, tool } from "ai";
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

  // The SDK refers to the items of the first answer, which the gateway keeps.
  async turns(prompt) {
    const messages = [{ role: "user", content: prompt }];
    for (const next of ["And what else?", null]) {
      const result = streamText({ model: openai.responses(model), messages, onError: fail });
      for await (const piece of result.textStream) write(piece);
      if (next === null) break;
      write("\n");
      messages.push(...(await result.response).messages, { role: "user", content: next });
    }
  },

  async tools() {
    const weather = tool({
      description: "Returns the weather of a city",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => ({ city, sky: "sunny" }),
    });
    const result = streamText({
      model: openai.responses(model),
      prompt: "What is the weather in Lisbon?",
      tools: { weather },
      // The first step calls the tool, the second answers with its result.
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
      stopWhen: stepCountIs(2),
      onError: fail,
    });
    for await (const part of result.fullStream) {
      if (part.type === "tool-call") write(`${part.toolName} ${JSON.stringify(part.input)}\n`);
      if (part.type === "tool-result") write(`→ ${part.output.sky}\n`);
      if (part.type === "text-delta") write(part.text);
    }
  },
};

const [prompt = "Tell me something", ...chosen] = process.argv.slice(2);
for (const name of chosen.length ? chosen : Object.keys(ways)) {
  write(`== ${name}\n`);
  await ways[name](prompt);
  write("\n");
}
