// A conversation is a tree of messages: editing a question and asking again make a branch, nothing is lost.
//
// conversation: {id, title, created, updated, system, nodes: {id: node}, leaf}
// node: {id, parent, created, role, text, media: [{kind, url, name}]} of a user, or
//       {id, parent, created, role, text, reasoning, thinkingSeconds, stats, finish, error} of the assistant.

export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (n) => n.toString(16).padStart(2, "0")).join("");

export function newConversation(system = "") {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, system, nodes: {}, leaf: null };
}

// Add a message behind another one (null: at the beginning), and make it the end of what is shown.
export function append(conversation, parent, message) {
  const node = { id: newId(), parent, created: Date.now(), ...message };
  conversation.nodes[node.id] = node;
  conversation.leaf = node.id;
  conversation.updated = node.created;
  return node;
}

// The messages that are shown, first to last.
export function path(conversation, leaf = conversation.leaf) {
  const found = [];
  for (let node = conversation.nodes[leaf]; node; node = conversation.nodes[node.parent]) found.unshift(node);
  return found;
}

export function children(conversation, parent) {
  return Object.values(conversation.nodes).filter((node) => node.parent === parent).sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
}

// Show another branch, down to its newest message.
export function choose(conversation, node) {
  let end = node;
  for (let below = children(conversation, end.id); below.length; below = children(conversation, end.id)) end = below[below.length - 1];
  conversation.leaf = end.id;
}

export function titleOf(text, media = []) {
  const line = text.trim().replace(/\s+/g, " ");
  if (!line) return media.length ? "Image" : "New chat";
  return line.length > 60 ? `${line.slice(0, 57).trimEnd()}…` : line;
}

// The messages of a request that asks for an answer behind `leaf`.
export function requestMessages(conversation, leaf) {
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const node of path(conversation, leaf)) {
    if (node.role === "assistant") {
      if (!node.text && !node.reasoning) continue;
      const message = { role: "assistant", content: node.text };
      if (node.reasoning) message.reasoning_content = node.reasoning;
      messages.push(message);
    } else if (node.media?.length) {
      const parts = node.media.map(({ kind, url }) => ({ type: `${kind}_url`, [`${kind}_url`]: { url } }));
      messages.push({ role: "user", content: node.text ? [...parts, { type: "text", text: node.text }] : parts });
    } else {
      messages.push({ role: "user", content: node.text });
    }
  }
  return messages;
}
