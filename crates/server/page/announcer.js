/** Announces events and answers to screen readers, sentence by sentence. */

/** Pause between announcements, so that none cuts off the one before, in milliseconds. */
const PAUSE = 1500;
/** The end of a sentence. A full stop at the end of a growing text is none yet: "3." becomes "3.14". */
const END = /[.!?]+(?=\s)|[。！？]+|\n/gu;

export class Announcer {
  #region;
  #said = 0;
  /** Up to where the text was searched for ends of sentences, so that a long text without any takes linear time. */
  #searched = 0;
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
    this.#said = this.#searched = 0;
  }

  /** Announces the new sentences of a growing text, and the rest when it is done. */
  follow(text, { done = false } = {}) {
    // An answer that is read again from its beginning is not announced again.
    if (text.length < this.#searched && !done) return;
    let end = done ? text.length : this.#said;
    if (!done) {
      // The character before may be a full stop that ends a sentence now.
      END.lastIndex = Math.max(this.#said, this.#searched - 1);
      for (let match = END.exec(text); match; match = END.exec(text)) end = END.lastIndex;
    }
    this.#searched = text.length;
    const whole = plain(text.slice(this.#said, end));
    this.#said = end;
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
