// Requests to the server: the same API that other programs use, and /page/render for Markdown.

const BASE = new URL("..", import.meta.url);
const KEY = "qwen35.key";

export const apiKey = () => sessionStorage.getItem(KEY) ?? "";
export const setApiKey = (key) => sessionStorage.setItem(KEY, key);

// An answer other than 200; `status` is its number.
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function request(path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  let response;
  try {
    response = await fetch(new URL(path, BASE), { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?", 0);
  }
  if (response.ok) return response;
  if (response.status === 401) throw new ServerError("The server asks for an API key: enter it in the settings.", 401);
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message ?? message;
  } catch {
    // not an error object
  }
  throw new ServerError(message, response.status);
}

export async function modelNames() {
  const found = await (await request("v1/models")).json();
  return found.data.map((model) => String(model.id));
}

// For each text, its blocks: [{line, html}].
export async function renderTexts(texts, signal) {
  return (await (await request("page/render", { texts }, signal)).json()).texts;
}

// Ask for an answer. `onChunk` is called with each chunk of the API, `onProgress` with the tokens of the prompt that
// are evaluated and with all of them.
export async function streamChat(body, { signal, onChunk, onProgress }) {
  const response = await request("v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (pending + value).split("\n");
      pending = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) {
          const data = line.slice(5).trim();
          if (data === "[DONE]") return;
          const chunk = JSON.parse(data);
          if (chunk.error) throw new ServerError(chunk.error.message ?? "The answer failed.", 500);
          onChunk(chunk);
        } else if (line.startsWith(":")) {
          const found = /(\d+)\s*(?:\/|of)\s*(\d+)/.exec(line);
          if (found) onProgress(Number(found[1]), Number(found[2]));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
