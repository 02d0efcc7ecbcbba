// Unmodified openai-node with Tokenwire: only the base URL differs.
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const model = process.env.MODEL ?? "simulator";
const client = new OpenAI({ baseURL: `${process.env.GATEWAY_URL ?? "http://localhost:3000"}/v1`, apiKey: "unused" });
const write = (text) => process.stdout.write(text ?? "");

const ways = {
  async chat(question) {
    const stream = await client.chat.completions.create({ model, stream: true, messages: [{ role: "user", content: question }] });
    for await (const chunk of stream) write(chunk.choices[0]?.delta.content);
  },

  async responses(question) {
    for await (const event of client.responses.stream({ model, input: question })) {
      if (event.type === "response.output_text.delta") write(event.delta);
    }
  },

  /** OpenAI's WebSocket mode: one connection for many answers. */
  async websocket(question) {
    const socket = new ResponsesWS(client);
    await new Promise((resolve, reject) => {
      socket.on("error", reject);
      socket.on("response.output_text.delta", (event) => write(event.delta));
      for (const end of ["response.completed", "response.incomplete"]) socket.on(end, resolve);
      socket.on("response.failed", (event) => reject(new Error(event.response.error.message)));
      socket.send({ type: "response.create", model, input: question });
    }).finally(() => socket.close());
  },

  /** Starts a background answer, drops the connection after the first token, and resumes after its number. */
  async background(question) {
    const job = await client.responses.create({ model, input: question, background: true });
    let last;
    for await (const event of await client.responses.retrieve(job.id, { stream: true })) {
      if (event.type !== "response.output_text.delta") continue;
      write(event.delta);
      last = event.sequence_number;
      break; // drops the connection
    }
    for await (const event of await client.responses.retrieve(job.id, { stream: true, starting_after: last })) {
      if (event.type === "response.output_text.delta") write(event.delta);
    }
  },
};

const [question = "Tell me something", ...chosen] = process.argv.slice(2);
for (const name of chosen.length ? chosen : Object.keys(ways)) {
  write(`== ${name}\n`);
  await ways[name](question);
  write("\n");
}
