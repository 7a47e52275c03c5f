// Show Markdown that the server renders. Of a text that grows, only the end is rendered again.

import { renderTexts } from "./api.js";
import { element } from "./dom.js";

const SHORTEST = 60; // ms between two renderings
const SHARE = 4; // and at least as many times what a rendering took

// The only way of HTML into the page; the server has escaped all HTML of the text.
const policy = globalThis.trustedTypes?.createPolicy("rendered-markdown", { createHTML: (html) => html }) ?? { createHTML: (html) => html };

function blockElement(block) {
  const made = element("div", { class: "block" });
  made.innerHTML = policy.createHTML(block.html);
  made.source = block.html;
  return made;
}

// Replace the blocks of a container from a place on, and keep those that are the same.
function show(container, from, blocks) {
  for (const [i, block] of blocks.entries()) {
    const old = container.children[from + i];
    if (old === undefined) container.append(blockElement(block));
    else if (old.source !== block.html) old.replaceWith(blockElement(block));
  }
  while (container.children.length > from + blocks.length) container.lastChild.remove();
}

export class GrowingText {
  #container;
  #onShown;
  #text = "";
  #settled = 0; // characters whose blocks are final
  #blocks = 0; // of them
  #running = null;
  #closed = false;

  constructor(container, onShown = () => {}) {
    this.#container = container;
    this.#onShown = onShown;
  }

  update(text) {
    this.#text = text.replace(/\r\n?/g, "\n");
    this.#running ??= this.#loop();
  }

  async #loop() {
    let shown = null;
    while (!this.#closed && shown !== this.#text) {
      const begin = performance.now();
      const text = this.#text;
      try {
        await this.#render(text);
      } catch {
        // The text itself is shown when the answer is complete.
      }
      shown = text;
      const took = performance.now() - begin;
      await new Promise((resolve) => setTimeout(resolve, Math.max(SHORTEST, SHARE * took)));
    }
    this.#running = null;
  }

  async #render(text) {
    const rest = text.slice(this.#settled);
    const [blocks] = await renderTexts([rest]);
    if (this.#closed) return;
    show(this.#container, this.#blocks, blocks);
    if (blocks.length > 1) {
      const lines = rest.split("\n");
      const last = blocks[blocks.length - 1];
      this.#settled += lines.slice(0, last.line).join("\n").length + 1;
      this.#blocks += blocks.length - 1;
    }
    this.#onShown();
  }

  // Stop, and render the whole text.
  async finish(text) {
    this.#closed = true;
    await showText(this.#container, text);
    this.#onShown();
  }
}

export async function showText(container, text) {
  await showTexts([[container, text]]);
}

// Render several texts with one request; pairs of a container and a text.
export async function showTexts(pairs) {
  const filled = pairs.filter(([, text]) => text);
  if (!filled.length) return;
  try {
    const found = await renderTexts(filled.map(([, text]) => text.replace(/\r\n?/g, "\n")));
    filled.forEach(([container], i) => show(container, 0, found[i]));
  } catch {
    for (const [container, text] of filled) container.replaceChildren(element("p", { class: "unrendered", text }));
  }
}
