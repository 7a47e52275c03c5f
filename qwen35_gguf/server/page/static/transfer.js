// Export and import conversations. Of a file only known fields of the right kinds are taken; all text stays text.

import { newId, titleOf } from "./tree.js";

const FORMAT = "qwen35-conversations";
const MEDIA = { image: /^data:image\/(png|jpeg|webp|gif|bmp);base64,[A-Za-z0-9+/=]*$/, video: /^data:video\/[\w.+-]+;base64,[A-Za-z0-9+/=]*$/ };
const STATS = ["tokens", "seconds", "firstToken", "promptTokens", "reused", "drafted", "accepted"];

export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

// Return the conversations of an exported file, with ids of their own; throw an Error with one line for the user.
export function imported(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON; choose one that this page exported.");
  }
  if (data?.format !== FORMAT || !Array.isArray(data.conversations)) {
    throw new Error("The file has no conversations; choose one that this page exported.");
  }
  return data.conversations.map(conversationOf).filter((each) => each !== null);
}

const textOf = (value) => (typeof value === "string" ? value : "");
const numberOf = (value, otherwise = 0) => (typeof value === "number" && Number.isFinite(value) ? value : otherwise);

function conversationOf(given) {
  if (typeof given !== "object" || given === null || typeof given.nodes !== "object" || given.nodes === null) return null;
  const names = new Map(Object.keys(given.nodes).map((name) => [name, newId()]));
  const nodes = {};
  for (const [name, node] of Object.entries(given.nodes)) {
    const made = nodeOf(node, names.get(name), names.get(node?.parent) ?? null);
    if (made !== null) nodes[made.id] = made;
  }
  for (const node of Object.values(nodes)) if (!(node.parent in nodes) || circular(nodes, node)) node.parent = null;
  const ids = Object.keys(nodes);
  if (!ids.length) return null;
  const leaf = names.get(given.leaf);
  const now = Date.now();
  return {
    id: newId(),
    title: titleOf(textOf(given.title)),
    created: numberOf(given.created, now),
    updated: numberOf(given.updated, now),
    system: textOf(given.system),
    nodes,
    leaf: leaf in nodes ? leaf : ids[ids.length - 1],
  };
}

function circular(nodes, start) {
  const seen = new Set();
  for (let node = start; node; node = nodes[node.parent]) {
    if (seen.has(node.id)) return true;
    seen.add(node.id);
  }
  return false;
}

function nodeOf(given, id, parent) {
  if (typeof given !== "object" || given === null) return null;
  const common = { id, parent, created: numberOf(given.created), text: textOf(given.text) };
  if (given.role === "user") return { ...common, role: "user", media: mediaOf(given.media) };
  if (given.role !== "assistant") return null;
  const stats = {};
  for (const name of STATS) if (typeof given.stats?.[name] === "number") stats[name] = numberOf(given.stats[name]);
  return {
    ...common,
    role: "assistant",
    reasoning: textOf(given.reasoning),
    thinkingSeconds: numberOf(given.thinkingSeconds),
    stats,
    finish: textOf(given.finish),
    error: textOf(given.error),
    model: textOf(given.model),
  };
}

function mediaOf(given) {
  if (!Array.isArray(given)) return [];
  const known = given.filter((each) => Object.hasOwn(MEDIA, each?.kind) && typeof each.url === "string" && MEDIA[each.kind].test(each.url));
  return known.map(({ kind, url, name }) => ({ kind, url, name: textOf(name) }));
}
