// The box in which questions are written.

import { element, find, iconButton, notify } from "./dom.js";
import { hasFiles, readMedia } from "./media.js";
import { keepSettings, settings } from "./settings.js";

export class Composer {
  #media = [];
  #onSend;
  #busy = false;

  constructor({ onSend, onStop, onEditLast }) {
    this.#onSend = onSend;
    const area = find("question");
    find("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    area.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        this.#send();
      } else if (event.key === "ArrowUp" && area.value === "") {
        event.preventDefault();
        onEditLast();
      }
    });
    area.addEventListener("input", () => this.#changed());
    find("stop").addEventListener("click", onStop);
    find("attach").addEventListener("click", () => find("attach-file").click());
    find("attach-file").addEventListener("change", ({ target }) => {
      this.add(target.files);
      target.value = "";
    });
    this.#connectThinking();
    this.#connectDrops();
    this.#changed();
  }

  #connectThinking() {
    const show = () => {
      find("thinking").setAttribute("aria-pressed", String(settings.thinking));
      find("effort").hidden = !settings.thinking;
      find("effort").value = settings.effort;
    };
    find("thinking").addEventListener("click", () => {
      settings.thinking = !settings.thinking;
      keepSettings();
      show();
    });
    find("effort").addEventListener("change", ({ target }) => {
      settings.effort = target.value;
      keepSettings();
    });
    show();
  }

  #connectDrops() {
    const drop = find("drop");
    document.addEventListener("paste", (event) => {
      if (!event.clipboardData?.files.length) return;
      event.preventDefault();
      this.add(event.clipboardData.files);
    });
    document.addEventListener("dragover", (event) => {
      if (!hasFiles(event.dataTransfer)) return;
      event.preventDefault();
      drop.hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) drop.hidden = true;
    });
    document.addEventListener("drop", (event) => {
      if (!hasFiles(event.dataTransfer)) return;
      event.preventDefault();
      drop.hidden = true;
      this.add(event.dataTransfer.files);
    });
  }

  async add(files) {
    for (const file of files) {
      try {
        this.#media.push(await readMedia(file));
      } catch (error) {
        notify(error.message);
      }
    }
    this.#showMedia();
    this.focus();
  }

  #showMedia() {
    const items = this.#media.map((each) => {
      const shown = each.kind === "video" ? element("video", { src: each.url, muted: true }) : element("img", { src: each.url, alt: each.name || "Image" });
      const remove = () => {
        this.#media = this.#media.filter((other) => other !== each);
        this.#showMedia();
      };
      return element("li", {}, shown, iconButton("close", `Remove ${each.name || "the attachment"}`, remove));
    });
    find("attachments").replaceChildren(...items);
    find("attachments").hidden = !items.length;
    this.#changed();
  }

  #changed() {
    const area = find("question");
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
    find("send").disabled = this.#busy || (!area.value.trim() && !this.#media.length);
  }

  #send() {
    if (find("send").disabled) return;
    const question = { text: find("question").value.trim(), media: this.#media };
    this.#media = [];
    find("question").value = "";
    this.#showMedia();
    this.#onSend(question);
  }

  setBusy(busy) {
    const focused = document.activeElement === find("stop") || document.activeElement === find("send");
    this.#busy = busy;
    find("send").hidden = busy;
    find("stop").hidden = !busy;
    this.#changed();
    if (focused) this.focus();
  }

  suggest(text) {
    find("question").value = text;
    this.#changed();
    this.focus();
  }

  focus() {
    find("question").focus();
  }
}
