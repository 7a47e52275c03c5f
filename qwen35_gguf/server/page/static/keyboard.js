// Keys that work everywhere on the page. Alt is used with letters that browsers leave free.

export function connectKeyboard({ stop, create, answerAgain, openSettings, toggleSidebar, focus }) {
  const byCode = { KeyN: create, KeyR: answerAgain, KeyB: toggleSidebar, Comma: openSettings };
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      stop();
    } else if (event.altKey && !event.ctrlKey && !event.metaKey && byCode[event.code]) {
      event.preventDefault();
      byCode[event.code]();
    } else if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      focus();
    }
  });
}
