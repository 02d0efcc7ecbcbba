/** Pictures of a question: pasted, dropped or chosen, made small enough, and shown before they are sent. */
import { element } from "./element.js";
import { t } from "./words.js";

/** Most pictures of one question. */
const MOST = 4;
/** Longest side in pixels. Models scale larger pictures down themselves. */
const SIDE = 1568;
/** Longest side of what is shown. */
const SHOWN = 512;

export class Pictures {
  #parts;
  /** Data URLs. */
  #taken = [];
  #allowed = true;
  #act;

  /**
   * `parts` are `{ list, button, input, question, zone }`. `act.warn` shows a problem or hides it with null, `act.change` is called when
   * pictures come or go.
   */
  constructor(parts, act) {
    this.#parts = parts;
    this.#act = act;
    const { button, input, question, zone } = parts;
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      this.#add(input.files);
      input.value = "";
    });
    question.addEventListener("paste", (event) => {
      const files = event.clipboardData?.files ?? [];
      // A text that was copied with its picture, as by an office program, is pasted as a text.
      if (files.length === 0 || event.clipboardData.types.includes("text/plain")) return;
      event.preventDefault();
      this.#add(files);
    });
    for (const type of ["dragover", "drop"]) {
      document.addEventListener(type, (event) => {
        if (![...event.dataTransfer?.types ?? []].includes("Files")) return;
        // Without this the browser would leave the page and show the file.
        event.preventDefault();
        zone.classList.toggle("dropping", type === "dragover");
        if (type === "drop") this.#add(event.dataTransfer.files);
      });
    }
    for (const type of ["dragleave", "dragend"]) document.addEventListener(type, () => zone.classList.remove("dropping"));
  }

  get isEmpty() { return this.#taken.length === 0; }

  /** Says whether the chosen model takes pictures, as far as its server says so. */
  allow(allowed) {
    this.#allowed = allowed;
    this.#parts.button.hidden = !allowed;
    if (!allowed && !this.isEmpty) {
      this.take();
      this.#act.warn(t("This model takes no pictures. Choose another model for them."));
    }
  }

  /** Returns the pictures as data URLs, and forgets them. */
  take() {
    const taken = this.#taken;
    this.#taken = [];
    this.#draw();
    return taken;
  }

  async #add(files) {
    if (!this.#allowed) {
      this.#act.warn(t("This model takes no pictures. Choose another model for them."));
      return;
    }
    for (const file of files) {
      if (this.#taken.length >= MOST) {
        this.#act.warn(t("A question takes {count} pictures at most.", { count: MOST }));
        return;
      }
      try {
        this.#taken.push(await shrink(file, SIDE));
        this.#act.warn(null);
      } catch {
        this.#act.warn(t("{name} is no picture that this browser can read. PNG, JPEG, WebP and GIF work.", { name: file.name || t("The file") }));
      }
    }
    this.#draw();
    this.#parts.question.focus();
  }

  #draw() {
    this.#parts.list.hidden = this.isEmpty;
    this.#parts.list.replaceChildren(...this.#taken.map((url, at) => element("li", {},
      picture(url, t("Picture {number}", { number: at + 1 })),
      element("button", {
        type: "button", className: "quiet icon", textContent: "×", "aria-label": t("Remove picture {number}", { number: at + 1 }),
        onclick: () => {
          this.#taken.splice(at, 1);
          this.#draw();
          this.#parts.question.focus();
        },
      }),
    )));
    this.#act.change();
  }
}

/** Returns an element that shows a picture. The page's policy allows no picture by a data URL, so it is drawn. */
export function picture(url, label) {
  const canvas = element("canvas", { className: "picture", role: "img", "aria-label": label, width: 1, height: 1 });
  draw(canvas, url).catch(() => {});
  return canvas;
}

async function draw(canvas, url) {
  const bitmap = await createImageBitmap(blobOf(url));
  const scale = Math.min(1, SHOWN / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  canvas.dispatchEvent(new CustomEvent("grown", { bubbles: true }));
}

function blobOf(url) {
  const [, type, data] = /^data:([^;,]+);base64,(.*)$/s.exec(url) ?? [];
  return new Blob([Uint8Array.from(atob(data ?? ""), (character) => character.charCodeAt(0))], { type });
}

/** Returns a picture as a JPEG whose longest side is at most this. What is transparent becomes white. */
async function shrink(file, side) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = element("canvas", { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.85);
}
