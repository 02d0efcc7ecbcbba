// Receives a webhook as soon as a word occurs in any answer of the gateway, while that answer still streams. Needs no packages.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secret = process.env.WEBHOOK_SECRET ?? "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const port = Number(process.env.PORT ?? 4000);
const seen = new Set();

/** Checks the signature as Standard Webhooks defines it. */
function isSigned(headers, body) {
  const key = Buffer.from(secret.slice("whsec_".length), "base64");
  const signed = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`;
  const expected = createHmac("sha256", key).update(signed).digest();
  const isFresh = Math.abs(Date.now() / 1000 - Number(headers["webhook-timestamp"])) < 300;
  return isFresh && (headers["webhook-signature"] ?? "").split(" ").some((signature) => {
    const given = Buffer.from(signature.replace(/^v1,/, ""), "base64");
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
}

createServer(async (request, response) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const body = Buffer.concat(pieces).toString();
  if (!isSigned(request.headers, body)) return response.writeHead(400).end();
  // Reply at once. If the reply is lost, the gateway sends the event again with the same id.
  response.writeHead(204).end();
  const { id, type, data } = JSON.parse(body);
  if (type !== "tokenwire:stream.matched" || seen.has(id)) return;
  seen.add(id);
  console.log(`${data.rule} in ${data.id}, ${data.part} up to byte ${data.offset}: …${data.text ?? ""}`);
}).listen(port, "127.0.0.1", () => console.log(`waiting on http://127.0.0.1:${port}/`));
