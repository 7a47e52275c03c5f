// The list of conversations.

import { element, find, iconButton } from "./dom.js";
import { running } from "./generation.js";

const DAY = 24 * 3600 * 1000;

function age(updated) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (updated >= midnight) return "Today";
  if (updated >= midnight - DAY) return "Yesterday";
  if (updated >= midnight - 6 * DAY) return "This week";
  return new Date(updated).toLocaleDateString("en", { month: "long", year: "numeric" });
}

const matches = (conversation, words) => {
  const texts = [conversation.title, ...Object.values(conversation.nodes).map((node) => node.text)].join("\n").toLowerCase();
  return words.every((word) => texts.includes(word));
};

export class Sidebar {
  #conversations = [];
  #current = null;
  #actions;

  constructor(actions) {
    this.#actions = actions;
    find("new-chat").addEventListener("click", actions.create);
    find("find").addEventListener("input", () => this.#draw());
    find("open-sidebar").addEventListener("click", () => this.toggle());
    find("close-sidebar").addEventListener("click", () => this.toggle(false));
    find("shade").addEventListener("click", () => this.toggle(false));
    this.toggle(!this.narrow, false);
  }

  get narrow() {
    return matchMedia("(max-width: 52rem)").matches;
  }

  toggle(open = !document.body.classList.contains("with-sidebar"), focus = true) {
    document.body.classList.toggle("with-sidebar", open);
    find("open-sidebar").setAttribute("aria-expanded", String(open));
    find("sidebar").inert = !open;
    find("shade").hidden = !(open && this.narrow);
    if (open && focus) find("find").focus();
  }

  show(conversations, current) {
    this.#conversations = conversations;
    this.#current = current;
    this.#draw();
  }

  #draw() {
    const words = find("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [];
    let group = null;
    for (const conversation of this.#conversations.filter((each) => !words.length || matches(each, words))) {
      if (age(conversation.updated) !== group) {
        group = age(conversation.updated);
        rows.push(element("li", { class: "age", text: group }));
      }
      rows.push(this.#row(conversation));
    }
    if (!rows.length) rows.push(element("li", { class: "age", text: words.length ? "Nothing found" : "No conversations yet" }));
    find("conversations").replaceChildren(...rows);
  }

  #row(conversation) {
    const title = conversation.title || "New chat";
    const open = element("button", { type: "button", class: "open", text: title, title, "aria-current": conversation.id === this.#current ? "page" : null, onclick: () => this.#actions.open(conversation.id) });
    const remove = iconButton("delete", `Delete "${title}"`, () => this.#actions.remove(conversation));
    return element("li", { class: running.has(conversation.id) ? "running" : "" }, open, remove);
  }
}
