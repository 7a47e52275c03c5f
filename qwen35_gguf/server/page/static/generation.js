// Ask for an answer, and write it into its node while it comes.

import { streamChat } from "./api.js";
import { requestOptions } from "./settings.js";
import { requestMessages } from "./tree.js";

// Answers that are being generated: the conversation's id -> {node, stop}.
export const running = new Map();

// Fill `node`, whose parent is the question. `onChange` is called after each piece, `onProgress` while the prompt is
// evaluated, `onEnd` at the end, whatever it is.
export async function generate(conversation, node, { onChange, onProgress, onEnd }) {
  const controller = new AbortController();
  running.set(conversation.id, { node, stop: () => controller.abort() });
  Object.assign(node, { text: "", reasoning: "", thinkingSeconds: 0, stats: {}, finish: "", error: "" });
  const begin = performance.now();
  let thinkingFrom = 0;
  const timer = setInterval(() => {
    if (thinkingFrom && !node.text) {
      node.thinkingSeconds = (performance.now() - thinkingFrom) / 1000;
      onChange();
    }
  }, 100);

  function onChunk({ choices, usage, timings, model }) {
    const now = performance.now();
    const delta = choices?.[0]?.delta ?? {};
    const text = delta.content ?? "";
    const reasoning = delta.reasoning_content ?? "";
    if ((text || reasoning) && node.stats.firstToken === undefined) node.stats.firstToken = (now - begin) / 1000;
    if (reasoning && !thinkingFrom) thinkingFrom = now;
    if (text && thinkingFrom && !node.text) node.thinkingSeconds = (now - thinkingFrom) / 1000;
    node.text += text;
    node.reasoning += reasoning;
    if (choices?.[0]?.finish_reason) node.finish = choices[0].finish_reason;
    if (model) node.model = model;
    if (usage) Object.assign(node.stats, { tokens: usage.completion_tokens, promptTokens: usage.prompt_tokens, reused: usage.prompt_tokens_details?.cached_tokens ?? 0 });
    if (usage && !node.stats.seconds) node.stats.seconds = Math.max(0.001, (now - begin) / 1000 - (node.stats.firstToken ?? 0));
    if (timings) Object.assign(node.stats, { seconds: timings.seconds, drafted: timings.drafted, accepted: timings.accepted });
    if (timings?.loop === "answer") node.finish = "loop";
    onChange();
  }

  try {
    const body = { ...requestOptions(), messages: requestMessages(conversation, node.parent) };
    await streamChat(body, { signal: controller.signal, onChunk, onProgress });
    if (!node.finish) node.finish = "stop";
  } catch (error) {
    if (controller.signal.aborted) node.finish = "stopped";
    else node.error = error.message;
  } finally {
    clearInterval(timer);
    if (thinkingFrom && !node.text) node.thinkingSeconds = (performance.now() - thinkingFrom) / 1000;
    running.delete(conversation.id);
    onEnd();
  }
}
