// The elements of one message.

import { element, icon, iconButton } from "./dom.js";
import { children } from "./tree.js";

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const seconds = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));

const NOTES = {
  length: "Ended at the limit of tokens.",
  loop: "Ended, because it repeated itself.",
  stopped: "Stopped.",
  tool_calls: "The model asked for a tool, which this page does not have.",
};

export function thinkingLabel(node, running) {
  if (running) return `Thinking for ${seconds(node.thinkingSeconds)} s`;
  return node.thinkingSeconds ? `Thought for ${seconds(node.thinkingSeconds)} s` : "Thoughts";
}

// What is known about speed, as short texts with explanations.
export function figures({ tokens, seconds: took, firstToken, promptTokens, reused, drafted, accepted }) {
  const found = [];
  if (tokens && took) found.push([`${number.format(tokens / took)} tokens/s`, `${number.format(tokens)} tokens in ${seconds(took)} s`]);
  if (firstToken !== undefined) found.push([`first token ${firstToken.toFixed(2)} s`, "From sending the question to the first token of the answer"]);
  if (promptTokens) {
    const count = number.format(promptTokens);
    found.push([reused ? `${number.format(reused)} of ${count} reused` : `${count} in the prompt`, "Tokens of the prompt; reused ones were evaluated before"]);
  }
  if (drafted) found.push([`drafts ${Math.round((100 * accepted) / drafted)} %`, `${number.format(accepted)} of ${number.format(drafted)} drafted tokens were accepted`]);
  return found;
}

function branchControls(conversation, node, onChoose) {
  const siblings = children(conversation, node.parent);
  if (siblings.length < 2) return null;
  const at = siblings.findIndex((each) => each.id === node.id);
  const turn = (name, label, to) => {
    const button = iconButton(name, label, () => onChoose(siblings[to]));
    button.disabled = to < 0 || to >= siblings.length;
    return button;
  };
  const count = element("span", { text: `${at + 1}/${siblings.length}`, "aria-label": `Version ${at + 1} of ${siblings.length}` });
  return element("span", { class: "branches" }, turn("left", "Earlier version", at - 1), count, turn("right", "Later version", at + 1));
}

function mediaElement({ kind, url, name }) {
  if (kind === "video") return element("video", { src: url, controls: true, "aria-label": name || "Video" });
  return element("a", { href: url, download: name || "image", "aria-label": `Save ${name || "image"}` }, element("img", { src: url, alt: name || "Attached image" }));
}

export function userMessage(conversation, node, actions) {
  const media = element("div", { class: "media" }, ...(node.media ?? []).map(mediaElement));
  const bubble = element("div", { class: "bubble", text: node.text });
  const tools = element(
    "div",
    { class: "actions" },
    branchControls(conversation, node, actions.choose),
    iconButton("copy", "Copy the question", () => actions.copy(node.text)),
    iconButton("edit", "Edit the question", () => edit()),
  );
  const item = element("li", { class: "message user", "data-id": node.id }, element("h2", { class: "hidden", text: "You" }), media.children.length ? media : null, node.text ? bubble : null, tools);
  function edit() {
    const area = element("textarea", { class: "edit", "aria-label": "Edit the question", rows: Math.min(12, node.text.split("\n").length + 1) });
    area.value = node.text;
    const leave = () => item.replaceWith(userMessage(conversation, node, actions));
    const send = () => (area.value.trim() || node.media?.length) && actions.edit(node, area.value);
    area.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") leave();
      else if (event.key === "Enter" && !event.shiftKey) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const buttons = element("div", { class: "answers" }, element("button", { type: "button", class: "quiet", text: "Cancel", onclick: leave }), element("button", { type: "button", class: "primary", text: "Send", onclick: send }));
    item.replaceChildren(element("h2", { class: "hidden", text: "You" }), ...(media.children.length ? [media] : []), area, buttons);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
  item.edit = edit;
  return item;
}

// The assistant's message: `item`, with the places that change while it is generated.
export function assistantMessage(conversation, node, actions) {
  const summary = element("summary", {}, icon("think"), element("span", { class: "label" }));
  const thoughts = element("div", { class: "thoughts" });
  const thinking = element("details", { class: "thinking", hidden: true }, summary, thoughts);
  const progress = element("div", { class: "progress", hidden: true }, element("span", { class: "dots", "aria-hidden": "true" }, element("i"), element("i"), element("i")), element("span", { class: "label" }));
  const body = element("div", { class: "markdown" });
  const note = element("p", { class: "note", hidden: true });
  const stats = element("div", { class: "stats" });
  const tools = element(
    "div",
    { class: "actions" },
    branchControls(conversation, node, actions.choose),
    iconButton("copy", "Copy the answer", () => actions.copy(node.text)),
    iconButton("again", "Answer again", () => actions.again(node)),
    stats,
  );
  const item = element("li", { class: "message assistant", "data-id": node.id }, element("h2", { class: "hidden", text: "Assistant" }), thinking, progress, body, note, tools);

  function update(running) {
    thinking.hidden = !node.reasoning;
    thinking.classList.toggle("running", running && !node.text);
    summary.lastChild.textContent = thinkingLabel(node, running && !node.text);
    if (thoughts.textContent !== node.reasoning) thoughts.textContent = node.reasoning ?? "";
    tools.hidden = running;
    item.classList.toggle("running", running);
    item.setAttribute("aria-busy", String(running));
    progress.hidden = !running || Boolean(node.reasoning || node.text);
    const text = node.error || (running ? "" : (NOTES[node.finish] ?? ""));
    note.textContent = text;
    note.hidden = !text;
    note.classList.toggle("error", Boolean(node.error));
    stats.replaceChildren(...figures(node.stats ?? {}).map(([shown, title]) => element("span", { text: shown, title })));
  }
  function setProgress(done, total) {
    progress.lastChild.textContent = total ? `Reading the prompt: ${Math.floor((100 * done) / total)} %` : "";
  }
  return { item, body, update, setProgress };
}
