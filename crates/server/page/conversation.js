/** The turns of a conversation, and the stream that is being read. */
import { attach, looksLikeCredential, stream } from "/tokenwire.js";
import { findByAnswer, save } from "./conversation_store.js";
import { access } from "./key.js";
import { recall } from "./past.js";
import { Turn } from "./turn.js";
import { t } from "./words.js";

/** Codes that mean that the gateway cannot continue from the previous answer. */
const FORGOTTEN = ["previous_response_not_found", "previous_response_unusable"];
/** Codes of connections that could not be restored. The answer may still run. */
const UNREACHED = ["connection_lost", "come_back", "unreachable", "stalled", "websocket_unavailable"];
/** Pause between two times that a growing answer is stored, in milliseconds. */
const STORED_EVERY = 2000;
/** A question whose answer never began. */
const UNANSWERED = { code: null, message: "The page was closed before the gateway answered.", explanation: "The page was closed before the gateway answered. Ask again." };
/** The question of "Continue". */
const CONTINUE = t("Continue exactly where you stopped.");
/** Pause before a reconnect is shown, in milliseconds. A gateway that is replaced sends its readers away for at most two seconds. */
const UNNOTICED = 2500;

export class Conversation extends EventTarget {
  #list;
  #settings;
  #turns = [];
  #stream = null;
  /** Changes when the conversation is replaced, so that late events of the old one are not shown. */
  #generation = 0;
  /** What the browser has stored of this conversation; replaced together with the conversation. */
  #kept = { record: null, isDeleted: false, saving: Promise.resolve(), at: 0 };

  /** `settings` returns the model and the transport to use. */
  constructor(list, settings) {
    super();
    this.#list = list;
    this.#settings = settings;
  }

  get stream() { return this.#stream; }
  get isRunning() { return this.#stream !== null; }
  get isEmpty() { return this.#turns.length === 0; }
  /** The id under which the browser keeps it; null before it is stored. */
  get keptAs() { return this.#kept.record?.id ?? null; }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #add(question, pictures = []) {
    const turn = new Turn(question, pictures, { again: (turn) => this.#again(turn) });
    this.#turns.push(turn);
    this.#list.append(turn.node);
    this.#tell("change");
    return turn;
  }

  /** Asks a question. Returns false, and sends nothing, if it is an API key: the model and its logs must not get it. */
  ask(question, pictures = []) {
    if (this.isRunning || looksLikeCredential(question)) return false;
    this.#start(this.#add(question, pictures));
    this.#keep();
    return true;
  }

  /** Repeats the last question. Earlier ones cannot be repeated: later answers build on theirs. */
  #again(turn) {
    if (this.isRunning || turn !== this.#turns.at(-1)) return;
    turn.restart();
    this.#start(turn);
    this.#keep();
  }

  #start(turn) {
    const { model, transport } = this.#settings();
    let answer;
    try {
      answer = stream({ ...access(transport), ...(model ? { model } : {}), ...this.#request(turn) });
    } catch (error) {
      turn.fail(error, []);
      return;
    }
    this.#read(turn, answer, { asked: true });
  }

  /**
   * Refers to the last complete answer that the gateway has, and sends what was said after it, such as a part of a failed answer.
   * An answer with tool calls is sent as text: a model would wait for results, and this page runs no tools.
   */
  #request(turn) {
    const before = this.#turns.slice(0, this.#turns.indexOf(turn));
    const known = before.findLastIndex(({ id, status, calls }) => id !== null && calls.isEmpty && ["completed", "incomplete"].includes(status));
    const said = before.slice(known + 1).flatMap(({ question, pictures, text }) => [
      ...(question ? [{ role: "user", content: contentOf(question, pictures) }] : []),
      ...(text ? [{ role: "assistant", content: text }] : []),
    ]);
    return {
      ...(known < 0 ? {} : { previous_response_id: before[known].id }),
      input: said.length === 0 && turn.pictures.length === 0 ? turn.question : [...said, { role: "user", content: contentOf(turn.question, turn.pictures) }],
    };
  }

  #read(turn, answer, { asked, again = false }) {
    const generation = this.#generation;
    const isCurrent = () => generation === this.#generation;
    this.#stream = answer;
    turn.node.querySelector(".answer").setAttribute("aria-busy", "true");
    this.#tell("begin", { stream: answer, asked, again });
    answer.started.then((id) => {
      if (!isCurrent()) return;
      turn.answer = id;
      this.#tell("named", id);
      this.#keep();
    }, () => {});
    answer.on("event", (event) => {
      if (!isCurrent()) return;
      turn.calls.take(event);
      turn.show(answer.text, answer.reasoning);
      if (performance.now() - this.#kept.at > STORED_EVERY) this.#keep();
    });
    let wait = null;
    const endWait = () => {
      clearTimeout(wait);
      wait = null;
    };
    const showWait = () => {
      if (!isCurrent() || isEnded(answer)) return;
      turn.note(t("The connection was lost. Reconnecting …"));
      this.#tell("status", "waiting");
    };
    answer.on("status", ({ state }) => {
      if (!isCurrent()) return;
      if (state === "waiting") {
        wait ??= setTimeout(showWait, UNNOTICED);
        return;
      }
      // A further attempt. The wait goes on until one succeeds.
      if (state === "connecting") return;
      endWait();
      if (state === "queued") turn.note(t("The browser has no free connection to the gateway. Close another tab, or choose the transport WebSocket."));
      else if (state === "offline") turn.note(t("You are offline. The answer continues when you are online again."));
      else if (state === "streaming") turn.note(null);
      this.#tell("status", state);
    });
    answer.response.then(
      (response) => {
        if (!isCurrent()) return;
        turn.show(answer.text, answer.reasoning, { complete: true });
        turn.end(response.status, answer.id, remarkOn(response));
        this.#over(turn, response.status);
      },
      (error) => {
        if (!isCurrent()) return;
        const refers = this.#turns.some((other) => other !== turn && other.id !== null);
        if (asked && refers && FORGOTTEN.includes(error.code)) {
          // The gateway has lost the previous answer, by a restart for example. The conversation is sent again.
          for (const other of this.#turns) other.id = null;
          this.#start(turn);
          return;
        }
        turn.show(answer.text, answer.reasoning);
        turn.fail(explained(turn, error), this.#waysOn(turn, answer, error));
        this.#over(turn, "failed", error);
      },
    );
  }

  /** Returns what can be done after a failure: read on an answer that may still run, have it continued, or repeat the question. */
  #waysOn(turn, answer, error) {
    if (UNREACHED.includes(error.code) && answer.id !== null) return [{ label: t("Reconnect"), act: () => this.#resume(turn, answer.id) }];
    const ways = [];
    if (turn.text !== "") ways.push({ label: t("Continue"), act: () => this.#continue(turn) });
    if (turn.question !== "") ways.push({ label: t("Try again"), act: () => this.#again(turn) });
    return ways;
  }

  #resume(turn, id) {
    if (this.isRunning || turn !== this.#turns.at(-1)) return;
    turn.resume();
    this.#read(turn, attach(id, access(this.#settings().transport)), { asked: false, again: true });
  }

  /** Asks for the rest of a failed answer. The part of it that was received goes with the question. */
  #continue(turn) {
    if (turn === this.#turns.at(-1)) this.ask(CONTINUE);
  }

  #over(turn, status, error = null) {
    this.#stream = null;
    turn.node.querySelector(".answer").setAttribute("aria-busy", "false");
    this.#keep();
    this.#tell("end", { status, text: turn.text, error });
  }

  /** Stores the conversation in the browser. One that allows no storage shows it all the same. */
  #keep() {
    const kept = this.#kept;
    const turns = this.#turns.map(({ question, pictures, answer, status, text, reasoning, remark, failure, calls }) => (
      { question, pictures, answer, status, text, reasoning, remark, failure, calls: calls.saved }));
    kept.at = performance.now();
    kept.saving = kept.saving.then(async () => { if (!kept.isDeleted) kept.record = await save(kept.record, turns); }).catch(() => {});
  }

  /** Shows a conversation that the browser has kept, and reads its last answer on if it may still run. */
  show(record) {
    this.clear();
    this.#kept.record = record;
    for (const { question, pictures, answer, status, text, reasoning, remark, failure, calls = [] } of record.turns) {
      const turn = this.#add(question, pictures);
      turn.show(text, reasoning);
      turn.calls.restore(calls);
      turn.answer = answer;
      if (failure !== null) turn.fail(failure, this.#waysOn(turn, { id: answer }, failure));
      else if (status !== "running") turn.end(status, answer, remark);
    }
    const last = this.#turns.at(-1);
    if (last?.answer) this.#tell("named", last.answer);
    this.#tell("shown", last?.answer ?? null);
    if (last?.status !== "running") return;
    if (last.answer !== null) this.#resume(last, last.answer);
    else last.fail(UNANSWERED, this.#waysOn(last, { id: null }, UNANSWERED));
  }

  /** Stops storing this conversation, which the user deleted. */
  forget() {
    this.#kept.isDeleted = true;
  }

  /** Stops the answer at its upstream. The part received so far stays. */
  stop() {
    const answer = this.#stream;
    if (!answer) return;
    answer.stopped = true;
    if (answer.id === null && answer.lastSequence < 0) {
      // Nothing was received yet, not even an id: there is nothing to wait for.
      this.#generation += 1;
      const turn = this.#turns.at(-1);
      answer.cancel().catch(() => {});
      turn.end("cancelled", null, t("Stopped before it started."));
      this.#over(turn, "cancelled");
      return;
    }
    answer.cancel().catch(() => {});
  }

  /** Shows the conversation that led to this answer, and reads the rest if it still runs. */
  async open(id) {
    this.clear();
    const generation = this.#generation;
    const record = await findByAnswer(id).catch(() => null);
    if (generation !== this.#generation) return;
    if (record?.turns.at(-1).answer === id) {
      this.show(record);
      return;
    }
    let past;
    try {
      past = await recall(id);
    } catch (error) {
      if (generation !== this.#generation) return;
      const turn = this.#add("");
      turn.fail(error, error.retryable ? [{ label: t("Try again"), act: () => this.open(id) }] : []);
      this.#tell("end", { status: "failed", text: "", error });
      return;
    }
    if (generation !== this.#generation) return;
    for (const { question, pictures, answer } of past.turns) {
      const turn = this.#add(question, pictures);
      turn.show(answer ?? "");
      turn.end("told", null);
    }
    const turn = this.#add(past.question, past.pictures);
    this.#tell("recalled", past.response.model);
    this.#read(turn, attach(id, access(this.#settings().transport)), { asked: false });
  }

  /** Starts a new conversation. A running answer continues and can be opened by its link. */
  clear() {
    this.#generation += 1;
    this.#stream?.close();
    this.#stream = null;
    this.#turns = [];
    this.#kept = { record: null, isDeleted: false, saving: Promise.resolve(), at: 0 };
    this.#list.replaceChildren();
    this.#tell("change");
  }
}

/** Returns the content of a message, as the Responses API takes it. */
function contentOf(question, pictures) {
  if (pictures.length === 0) return question;
  return [{ type: "input_text", text: question }, ...pictures.map((url) => ({ type: "input_image", image_url: url, detail: "auto" }))];
}

/** Adds what to do where a model server may have refused the pictures. */
function explained(turn, error) {
  if (turn.pictures.length === 0 || ![400, 415, 422].includes(error.status)) return error;
  const { code, message, status } = error;
  return { code, message, status, explanation: "The model server refused the question. It may take no pictures: ask without them, or choose another model." };
}

function isEnded(answer) {
  return ["done", "failed", "aborted", "closed"].includes(answer.state);
}

function remarkOn(response) {
  if (response.status === "cancelled") return t("Stopped.");
  const reason = response.incomplete_details?.reason;
  if (reason === "max_output_tokens") return t("The answer reached its limit of tokens.");
  if (reason === "content_filter") return t("A content filter ended the answer.");
  return response.status === "incomplete" ? t("The answer is not complete.") : null;
}
