/** Reads a conversation from the gateway, so that a link is enough for another browser. */
import { headers } from "./key.js";
import { TokenwireError } from "/tokenwire.js";

const PAGES = 20;

async function get(path) {
  const response = await fetch(path, { headers: { Accept: "application/json", ...headers() } }).catch((cause) => {
    throw new TokenwireError("The gateway cannot be reached.", { code: "unreachable", retryable: true, cause });
  });
  if (response.ok) return response.json();
  const error = await response.json().then(({ error }) => error, () => null);
  throw new TokenwireError(error?.message ?? `The gateway answered with status ${response.status}.`, {
    code: error?.code, status: response.status, retryable: response.status >= 500,
  });
}

/** Returns the available models: `{ name, takesPictures }`, the latter as far as the model server says so. */
export async function models() {
  return (await get("/v1/models")).data.map((model) => {
    const modalities = model.architecture?.input_modalities ?? model.input_modalities;
    return { name: model.id, takesPictures: !Array.isArray(modalities) || modalities.includes("image") };
  });
}

/** Returns the turns before the answer `id`, its question with its pictures, and its response object. */
export async function recall(id) {
  const response = await get(`/v1/responses/${id}`);
  const turns = [];
  let after = "";
  for (let page = 0; page < PAGES; page += 1) {
    const { data, has_more: more, last_id: last } = await get(`/v1/responses/${id}/input_items?order=asc&limit=100${after}`);
    for (const item of data) take(item, turns);
    if (!more) break;
    after = `&after=${encodeURIComponent(last)}`;
  }
  const { question, pictures } = turns.at(-1)?.answer === null ? turns.pop() : { question: "", pictures: [] };
  return { turns, question, pictures, response };
}

/** Returns the pictures that came as data. Others would be loaded from another machine. */
function picturesOf(content) {
  if (typeof content === "string") return [];
  const urls = (content ?? []).map((part) => (part.type === "input_image" ? part.image_url : null));
  return urls.filter((url) => typeof url === "string" && url.startsWith("data:image/"));
}

function take(item, turns) {
  if (item.type !== "message") return;
  const content = typeof item.content === "string" ? item.content : (item.content ?? []).map((part) => part.text ?? part.refusal ?? "").join("");
  if (item.role === "user") turns.push({ question: content, pictures: picturesOf(item.content), answer: null });
  else if (item.role === "assistant" && turns.length > 0) turns.at(-1).answer = (turns.at(-1).answer ?? "") + content;
}
