// Settings of this browser, and the dialog that shows them.

import { apiKey, setApiKey } from "./api.js";
import { find } from "./dom.js";

const NAME = "qwen35.settings";
const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "max_tokens", "seed"];
const DEFAULTS = { thinking: true, effort: "", model: "", system: "", sampling: {} };

export const settings = read();

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(NAME) ?? "{}");
    return { ...DEFAULTS, ...found, sampling: { ...found.sampling } };
  } catch {
    return { ...DEFAULTS, sampling: {} };
  }
}

export function keepSettings() {
  localStorage.setItem(NAME, JSON.stringify(settings));
}

// What a request says about sampling and thinking.
export function requestOptions() {
  const options = { model: settings.model || undefined };
  if (!settings.thinking) options.reasoning_effort = "none";
  else if (settings.effort) options.reasoning_effort = settings.effort;
  else options.chat_template_kwargs = { enable_thinking: true };
  for (const name of SAMPLING) if (typeof settings.sampling[name] === "number") options[name] = settings.sampling[name];
  return options;
}

function setTheme(theme) {
  if (theme === "auto") {
    localStorage.removeItem("qwen35.theme");
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem("qwen35.theme", theme);
    document.documentElement.dataset.theme = theme;
  }
}

// Connect the dialog; `onKey` is called when another API key is entered, `onDeleteAll` by the button.
export function connectSettings({ conversation, saveConversation, onKey, onDeleteAll }) {
  const dialog = find("settings");
  const form = dialog.querySelector("form");
  const open = () => {
    find("system").value = conversation().system;
    find("key").value = apiKey();
    for (const name of SAMPLING) form.elements[name].value = settings.sampling[name] ?? "";
    form.elements.theme.value = localStorage.getItem("qwen35.theme") ?? "auto";
    dialog.showModal();
  };
  find("open-settings").addEventListener("click", open);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  form.addEventListener("change", ({ target }) => {
    if (SAMPLING.includes(target.name)) {
      if (target.value === "" || !target.checkValidity()) delete settings.sampling[target.name];
      else settings.sampling[target.name] = target.valueAsNumber;
      target.reportValidity();
      keepSettings();
    } else if (target.name === "theme") {
      setTheme(target.value);
    }
  });
  find("system").addEventListener("input", ({ target }) => {
    conversation().system = target.value;
    saveConversation();
  });
  find("system-default").addEventListener("click", () => {
    settings.system = find("system").value;
    keepSettings();
  });
  find("key").addEventListener("change", ({ target }) => {
    setApiKey(target.value.trim());
    onKey();
  });
  find("delete-all").addEventListener("click", onDeleteAll);
  return open;
}
