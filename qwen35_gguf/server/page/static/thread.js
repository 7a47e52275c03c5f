// The messages of the conversation that is shown.

import { find } from "./dom.js";
import { GrowingText, showTexts } from "./markdown.js";
import { assistantMessage, userMessage } from "./message.js";
import { path } from "./tree.js";

const NEAR = 80; // pixels from the end at which the view follows an answer

export class Thread {
  #actions;
  #views = new Map(); // node id -> view of an answer
  #following = true;

  constructor(actions) {
    this.#actions = actions;
    const scroll = find("scroll");
    scroll.addEventListener("scroll", () => {
      this.#following = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR;
      find("to-end").hidden = this.#following;
    }, { passive: true });
    find("to-end").addEventListener("click", () => this.toEnd());
    find("messages").addEventListener("click", (event) => {
      const button = event.target.closest("button.copy");
      if (button) actions.copy(button.closest("figure").querySelector("code").textContent, button);
    });
  }

  // Show a conversation from its beginning to the end that is chosen; `active` is a node that is being generated.
  show(conversation, active = null) {
    this.#views.clear();
    const texts = [];
    const items = path(conversation).map((node) => {
      if (node.role === "user") return userMessage(conversation, node, this.#actions);
      const view = assistantMessage(conversation, node, this.#actions);
      view.update(node === active);
      if (node === active) this.#grow(node, view);
      else texts.push([view.body, node.text]);
      return view.item;
    });
    find("messages").replaceChildren(...items);
    find("welcome").hidden = items.length > 0;
    document.body.classList.toggle("empty", items.length === 0);
    this.toEnd();
    showTexts(texts).then(() => this.#follow());
  }

  #grow(node, view) {
    this.#views.set(node.id, { ...view, growing: new GrowingText(view.body, () => this.#follow()) });
    if (node.text) this.#views.get(node.id).growing.update(node.text);
  }

  update(node) {
    const view = this.#views.get(node.id);
    if (!view) return;
    view.update(true);
    if (node.text) view.growing.update(node.text);
    this.#follow();
  }

  progress(node, done, total) {
    this.#views.get(node.id)?.setProgress(done, total);
  }

  async finish(node) {
    const view = this.#views.get(node.id);
    if (!view) return;
    this.#views.delete(node.id);
    await view.growing.finish(node.text);
    view.update(false);
    this.#follow();
  }

  toEnd() {
    this.#following = true;
    find("to-end").hidden = true;
    this.#follow();
  }

  #follow() {
    const scroll = find("scroll");
    if (this.#following) scroll.scrollTop = scroll.scrollHeight;
  }

  editLast() {
    [...find("messages").querySelectorAll(".user")].pop()?.edit();
  }
}
