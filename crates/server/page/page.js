/** The chat page: connects its parts. */
import { Announcer } from "./announcer.js";
import { Conversation } from "./conversation.js";
import { ConversationList } from "./conversation_list.js";
import { copy, element } from "./element.js";
import { kept } from "./kept.js";
import { ready, takeFromAddress, useKey } from "./key.js";
import { Meter } from "./meter.js";
import { models } from "./past.js";
import { Pictures } from "./pictures.js";
import { switchTheme } from "./theme_switch.js";
import { t, translate } from "./words.js";
import { looksLikeCredential } from "/tokenwire.js";

translate(document.body);

const $ = (id) => document.getElementById(id);
/** On touch devices the focus in the question would open the on-screen keyboard. */
const isMouse = matchMedia("(pointer: fine)").matches;
const STREAM_ID = /^#(resp_[A-Za-z0-9_-]+)$/;

const SUGGESTIONS = [
  [t("Say hello"), t("See what a stream looks like"), t("hello")],
  [t("Write a poem"), t("A few lines, word by word"), t("Write a short poem about rivers.")],
  [t("Show some code"), t("With a button to copy it"), t("Show me some code that reads a stream.")],
  [t("Explain yourself"), t("Tables, lists and links"), t("What can you do, and how do your answers reach me?")],
];

const announcer = new Announcer($("announcer"));
const meter = new Meter({
  state: $("state"), transport: $("m-transport"), last: $("m-last"), first: $("m-first"), rate: $("m-rate"), reconnects: $("m-reconnects"),
  events: $("m-events"), id: $("m-id"), trace: $("trace"), cut: $("cut"), share: $("share"),
});
const conversation = new Conversation($("turns"), () => ({ model: $("model").value, transport: $("transport").value }));

const pictures = new Pictures(
  { list: $("pictures"), button: $("add-picture"), input: $("picture-file"), question: $("question"), zone: $("composer") },
  { warn, change: refresh },
);

// --- asking

function submit() {
  const question = $("question").value.trim();
  if (!question || conversation.isRunning) return;
  if (looksLikeCredential(question)) {
    warn(t("This looks like an API key. It was not sent: a question goes to the model and may be logged."));
    return;
  }
  warn(null);
  $("question").value = "";
  follow = true;
  conversation.ask(question, pictures.take());
  refresh();
}

/** Shows a warning above the question, or hides it if the text is null. */
function warn(text) {
  $("warning").textContent = text ?? "";
  $("warning").hidden = text === null;
}

function refresh() {
  const running = conversation.isRunning;
  $("send").hidden = running;
  $("stop").hidden = !running;
  $("send").disabled = $("question").value.trim() === "";
  $("welcome").hidden = !conversation.isEmpty;
  $("new").disabled = conversation.isEmpty;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("question").addEventListener("input", () => {
  if (!$("warning").hidden) warn(null);
  refresh();
});
$("question").addEventListener("keydown", (event) => {
  // Enter that ends an input method's composition does not send the question.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && conversation.isRunning && !$("conversations").open) conversation.stop();
});
$("stop").addEventListener("click", () => {
  conversation.stop();
  $("question").focus();
});
function startAnew() {
  conversation.clear();
  meter.clear();
  history.pushState(null, "", location.pathname);
  document.title = "Tokenwire";
  refresh();
}
$("new").addEventListener("click", () => {
  startAnew();
  $("question").focus();
  announcer.say(t("A new chat."));
});
const conversations = new ConversationList($("conversations"), {
  open: (record) => {
    follow = true;
    conversation.show(record);
    refresh();
    $(isMouse ? "question" : "scroll").focus();
  },
  isCurrent: (id) => id === conversation.keptAs,
  forget: (id) => {
    if (id !== conversation.keptAs) return;
    conversation.forget();
    startAnew();
  },
});
$("show-conversations").addEventListener("click", () => conversations.show());
// The buttons of a turn vanish once the next answer begins. The focus must not vanish with them.
$("turns").addEventListener("click", ({ target }) => {
  if (target.closest("button") && conversation.isRunning) $(isMouse ? "question" : "scroll").focus();
});
$("suggestions").append(...SUGGESTIONS.map(([title, about, question]) => element("li", {},
  element("button", { type: "button", onclick: () => { $("question").value = question; submit(); $("question").focus(); } },
    element("strong", { textContent: title }), element("span", { textContent: about })),
)));

// --- events of the conversation

conversation.addEventListener("change", refresh);
conversation.addEventListener("begin", ({ detail: { stream, asked, again } }) => {
  if (!again) announcer.begin();
  announcer.say(asked ? t("Sent. Waiting for the answer.") : t("Reading the answer."));
  meter.follow(stream, { asked });
  if (asked) follow = true;
  stream.on("event", () => announcer.follow(stream.text));
  refresh();
});
conversation.addEventListener("named", ({ detail: id }) => {
  if (location.hash !== `#${id}`) history.replaceState(null, "", `#${id}`);
  const question = $("turns").lastElementChild?.querySelector(".question p").textContent ?? "";
  document.title = question ? `${question.slice(0, 60)} · Tokenwire` : "Tokenwire";
});
conversation.addEventListener("status", ({ detail: state }) => {
  if (state === "waiting") announcer.say(t("The connection was lost. Reconnecting."));
  if (state === "offline") announcer.say(t("You are offline. The answer continues when you are online again."));
});
conversation.addEventListener("end", ({ detail: { status, text, error } }) => {
  if (error?.status === 401) askForKey(error.message);
  announcer.follow(text, { done: true });
  if (error) announcer.say(t(error.explanation ?? error.message));
  else announcer.say(status === "cancelled" ? t("Stopped.") : t("The answer is complete."));
  refresh();
});
conversation.addEventListener("shown", ({ detail: id }) => meter.clear(id));
conversation.addEventListener("recalled", ({ detail: model }) => choose($("model"), model));
document.addEventListener("say", ({ detail }) => announcer.say(detail));

function choose(select, value) {
  if ([...select.options].some((option) => option.value === value)) select.value = value;
}

// --- the page follows the answer unless the reader scrolls up

let follow = true;
const scroll = $("scroll");
const isAtEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
scroll.addEventListener("scroll", () => {
  follow = isAtEnd();
  $("latest").hidden = follow;
}, { passive: true });
document.addEventListener("grown", () => {
  if (follow) scroll.scrollTop = scroll.scrollHeight;
  else $("latest").hidden = isAtEnd();
});
$("latest").addEventListener("click", () => {
  follow = true;
  scroll.scrollTop = scroll.scrollHeight;
  $("question").focus();
});

// --- the connection

$("cut").addEventListener("click", () => {
  conversation.stream?.cut();
  announcer.say(t("The connection is cut."));
});
$("share").addEventListener("click", async () => {
  const done = await copy(location.href);
  announcer.say(done ? t("The link is copied.") : t("The link is in the address bar."));
  $("share").textContent = done ? t("Link copied") : t("The link is in the address bar");
  setTimeout(() => { $("share").textContent = t("Copy a link to this answer"); }, 2000);
});
$("show-wire").addEventListener("click", () => {
  const shown = $("wire").classList.toggle("shown");
  $("show-wire").setAttribute("aria-expanded", String(shown));
});

// --- settings

switchTheme($("theme"), (theme) => kept.set("theme", theme));

for (const name of ["model", "transport"]) $(name).addEventListener("change", () => kept.set(name, $(name).value));
choose($("transport"), kept.get("transport"));

/** Models that take no pictures, as their servers say. */
let withoutPictures = new Set();
const allowPictures = () => pictures.allow(!withoutPictures.has($("model").value));
$("model").addEventListener("change", allowPictures);

/** Offers the models. Returns false, and asks for a key, if the gateway needs one. */
async function offerModels() {
  let refusal = null;
  const offered = await models().catch((error) => {
    if (error.status === 401) refusal = error;
    return [];
  });
  if (refusal) {
    askForKey(refusal.message);
    return false;
  }
  const options = offered.length > 0 ? offered.map(({ name }) => new Option(name, name)) : [new Option(t("the gateway's choice"), "")];
  $("model").replaceChildren(...options);
  withoutPictures = new Set(offered.filter(({ takesPictures }) => !takesPictures).map(({ name }) => name));
  choose($("model"), kept.get("model"));
  allowPictures();
  return true;
}

/** Begins to work with the gateway, once there is a key for it. */
async function begin() {
  await ready();
  if ((await offerModels()) && conversation.isEmpty) openLink();
}

/** Asks for a key, and says why. */
function askForKey(why) {
  $("key-form").hidden = false;
  $("key-why").textContent = why;
  $("key").focus();
}
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  if (!key) return;
  $("key").value = "";
  $("key-form").hidden = true;
  useKey(key);
  begin();
  $("question").focus();
});

function openLink() {
  if (takeFromAddress()) {
    $("key-form").hidden = true;
    begin();
    return;
  }
  // A key in the address would stay in the history and in every copied link.
  if (looksLikeCredential(location.hash.replace(/^#(?:\w+=)?/, ""))) {
    history.replaceState(null, "", location.pathname);
    warn(t("The address had an API key in it, which was removed. This page needs no key."));
    return;
  }
  const id = STREAM_ID.exec(location.hash)?.[1];
  if (id) conversation.open(id);
}
addEventListener("hashchange", openLink);
addEventListener("popstate", () => {
  if (location.hash === "") {
    conversation.clear();
    meter.clear();
  }
});

refresh();
begin();
if (isMouse) $("question").focus();
