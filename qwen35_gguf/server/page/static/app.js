// The chat page: connects the parts, and keeps what is shown and what is stored the same.

import { modelNames } from "./api.js";
import { Composer } from "./composer.js";
import { announce, confirmed, download, element, find, notify } from "./dom.js";
import { generate, running } from "./generation.js";
import { connectKeyboard } from "./keyboard.js";
import { connectSettings, keepSettings, settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import * as store from "./store.js";
import { Thread } from "./thread.js";
import { exported, imported } from "./transfer.js";
import { append, choose, newConversation, path, titleOf } from "./tree.js";

const SUGGESTIONS = [
  ["Explain", "Explain how a hash table works, with a small example in Python."],
  ["Compare", "Compare bubble sort, merge sort and quicksort in a table."],
  ["Plan", "Plan a weekend in Lisbon for two people who like walking and good food."],
  ["Write", "Write a friendly reminder about an overdue library book."],
];

let conversations = [];
let current = newConversation(settings.system);

// ---- storage and lists -------------------------------------------------------------------------------------------

async function save(conversation) {
  if (!Object.keys(conversation.nodes).length) return;
  if (!conversations.includes(conversation)) conversations.unshift(conversation);
  try {
    await store.save(conversation);
  } catch {
    notify("The browser has no room left for this conversation; export or delete some.");
  }
}

function drawSidebar() {
  conversations.sort((a, b) => b.updated - a.updated);
  sidebar.show(conversations, current.id);
}

function show(conversation) {
  current = conversation;
  const active = running.get(conversation.id)?.node ?? null;
  thread.show(conversation, active);
  composer.setBusy(active !== null);
  find("export-one").hidden = !Object.keys(conversation.nodes).length;
  document.title = conversation.title || "Chat";
  drawSidebar();
}

function create() {
  show(newConversation(settings.system));
  if (sidebar.narrow) sidebar.toggle(false);
  composer.focus();
}

// ---- asking ------------------------------------------------------------------------------------------------------

function ask(conversation, parent, question) {
  const node = append(conversation, parent, { role: "user", ...question });
  if (!conversation.title) conversation.title = titleOf(question.text, question.media);
  answer(conversation, node.id);
}

function answer(conversation, question) {
  if (running.has(conversation.id)) return;
  const node = append(conversation, question, { role: "assistant", text: "" });
  const shown = () => current === conversation;
  let saved = performance.now();
  const done = generate(conversation, node, {
    onChange() {
      if (shown()) thread.update(node);
      if (performance.now() - saved > 2000) {
        saved = performance.now();
        save(conversation);
      }
    },
    onProgress(evaluated, total) {
      if (shown()) thread.progress(node, evaluated, total);
    },
    onEnd() {
      conversation.updated = Date.now();
      save(conversation);
      if (shown()) {
        composer.setBusy(false);
        thread.finish(node).then(() => announce(node.error || (node.finish === "stopped" ? "Stopped." : `Answer: ${node.text.slice(0, 400)}`)));
      }
      drawSidebar();
    },
  });
  save(conversation);
  show(conversation);
  announce("The answer is being generated.");
  return done;
}

const actions = {
  choose(node) {
    if (running.has(current.id)) return;
    choose(current, node);
    save(current);
    show(current);
  },
  edit(node, text) {
    if (!running.has(current.id)) ask(current, node.parent, { text: text.trim(), media: node.media ?? [] });
  },
  again(node) {
    answer(current, node.parent);
  },
  async copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      notify("The browser does not allow to copy.");
      return;
    }
    announce("Copied.");
    if (button) {
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    }
  },
};

function stop() {
  running.get(current.id)?.stop();
}

function answerAgain() {
  const last = path(current).pop();
  if (last?.role === "assistant") actions.again(last);
}

const thread = new Thread(actions);
const composer = new Composer({
  onSend: (question) => ask(current, current.leaf, question),
  onStop: stop,
  onEditLast: () => running.has(current.id) || thread.editLast(),
});
const sidebar = new Sidebar({
  create,
  open(id) {
    show(conversations.find((each) => each.id === id));
    if (sidebar.narrow) sidebar.toggle(false);
    composer.focus();
  },
  async remove(conversation) {
    if (!(await confirmed(`Delete "${conversation.title}"?`))) return;
    running.get(conversation.id)?.stop();
    conversations = conversations.filter((each) => each !== conversation);
    await store.remove(conversation.id);
    if (conversation === current) create();
    else drawSidebar();
  },
});

// ---- settings, models, files -------------------------------------------------------------------------------------

const openSettings = connectSettings({
  conversation: () => current,
  saveConversation: () => save(current),
  onKey: loadModels,
  async onDeleteAll() {
    if (!(await confirmed("Delete all conversations of this browser?"))) return;
    for (const { stop: end } of running.values()) end();
    conversations = [];
    await store.clear();
    find("settings").close();
    create();
  },
});

async function loadModels() {
  let names = [];
  try {
    names = await modelNames();
  } catch (error) {
    notify(error.message);
    if (error.status === 401 && !find("settings").open) {
      openSettings();
      find("key").focus();
    }
  }
  if (!names.includes(settings.model)) settings.model = names[0] ?? "";
  const select = find("model");
  select.replaceChildren(...names.map((name) => element("option", { value: name, text: name })));
  select.value = settings.model;
  select.disabled = names.length < 2;
  find("welcome-model").textContent = settings.model ? `${settings.model} is ready.` : "";
}

find("model").addEventListener("change", ({ target }) => {
  settings.model = target.value;
  keepSettings();
});
find("export-one").addEventListener("click", () => download(`${titleOf(current.title).replace(/[^\p{L}\p{N}]+/gu, "-")}.json`, exported([current])));
find("export-all").addEventListener("click", () => download("conversations.json", exported(conversations)));
find("import").addEventListener("click", () => find("import-file").click());
find("import-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  target.value = "";
  try {
    const found = imported(await file.text());
    for (const each of found) await save(each);
    if (found.length) show(found[0]);
    notify(`Imported ${found.length} ${found.length === 1 ? "conversation" : "conversations"}.`);
  } catch (error) {
    notify(error.message);
  }
});
find("suggestions").append(
  ...SUGGESTIONS.map(([title, text]) => element("li", {}, element("button", { type: "button", onclick: () => composer.suggest(text) }, element("strong", { text: title }), element("span", { text })))),
);

connectKeyboard({ stop, create, answerAgain, openSettings, toggleSidebar: () => sidebar.toggle(), focus: () => composer.focus() });
loadModels();
conversations = await store.all();
show(current);
document.body.dataset.ready = "";
