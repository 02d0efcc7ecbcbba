/** Announces events and answers to screen readers, sentence by sentence. */

/** Pause between announcements, so that none cuts off the one before, in milliseconds. */
const PAUSE = 1500;
const SENTENCE = /[^.!?。！？\n]*(?:[.!?]+(?=\s|$)|[。！？]+|\n)/gu;

export class Announcer {
  #region;
  #said = 0;
  #pending = "";
  #timer = null;

  constructor(region) {
    this.#region = region;
  }

  /** Announces a text as soon as the one before it had its time. */
  say(text) {
    this.#pending += `${this.#pending ? " " : ""}${text.trim()}`;
    this.#timer ??= setTimeout(() => this.#flush(), this.#region.textContent ? PAUSE : 100);
  }

  /** Starts a new answer. */
  begin() {
    this.#said = 0;
  }

  /** Announces the new sentences of a growing text, and the rest when it is done. */
  follow(text, { done = false } = {}) {
    if (this.#said > text.length) this.#said = 0;
    const rest = text.slice(this.#said);
    let length = 0;
    for (const match of rest.matchAll(SENTENCE)) length = match.index + match[0].length;
    // The last sentence may continue: "3." becomes "3.14".
    if (done) length = rest.length;
    else if (length === rest.length) length = Math.max(0, rest.slice(0, -1).search(/[.!?\n][^.!?\n]*$/u) + 1);
    const whole = plain(rest.slice(0, length));
    this.#said += length;
    if (whole) this.say(whole);
  }

  #flush() {
    this.#timer = null;
    if (!this.#pending) {
      this.#region.textContent = "";
      return;
    }
    this.#region.textContent = this.#pending;
    this.#pending = "";
    this.#timer = setTimeout(() => this.#flush(), PAUSE);
  }
}

/** Removes Markdown syntax. */
function plain(text) {
  return text
    .replace(/^\s*(```|~~~).*$/gm, " ")
    .replace(/^\s*\|?[\s:|-]+\|?\s*$/gm, " ")
    .replace(/^\s{0,3}(#{1,6}|>|[-*+])\s+/gm, "")
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/[*_`~|]+/g, " ")
    .replace(/\s+/g, " ")
    .trim();
}
