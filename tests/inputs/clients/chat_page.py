"""Fixtures: Chromium, as the system has it, and the chat page in it; a conftest.py imports them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inputs.live_server import LiveServer

# No services of its vendor, and no sandbox, which containers do not have.
ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")  # not of the session: its event loop runs in this thread, where others begin theirs
def browser() -> Iterator[Any]:
    """A browser without a window; tests that need it are skipped where there is none."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with driver.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield launched
        launched.close()


class Page:
    """The chat page of a server, and what tests do with it."""

    def __init__(self, tab: Any, server: LiveServer) -> None:
        self.tab, self.server = tab, server
        self.problems: list[str] = []
        tab.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        tab.on("pageerror", lambda error: self.problems.append(str(error)))
        tab.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))

    def open(self) -> Page:
        self.tab.goto(f"{self.server.url}/")
        self.tab.wait_for_selector("body[data-ready]")
        self.tab.wait_for_selector("#model option", state="attached")
        return self

    def switch_thinking_off(self) -> None:
        if self.tab.get_attribute("#thinking", "aria-pressed") == "true":
            self.tab.click("#thinking")

    def send(self, text: str) -> None:
        self.tab.fill("#question", text)
        self.tab.press("#question", "Enter")

    def answered(self) -> str:
        """Wait for the end of an answer, and return its text."""
        self.tab.wait_for_selector("#send:not([hidden])", timeout=60_000)
        self.tab.wait_for_selector(".assistant:last-child:not(.running) .actions:not([hidden])", timeout=60_000)
        found: str = self.tab.locator(".assistant .markdown").last.inner_text()
        return found

    def ask(self, text: str) -> str:
        self.send(text)
        return self.answered()

    def set(self, name: str, value: str) -> None:
        """Set a field of the settings."""
        self.tab.click("#open-settings")
        self.tab.fill(name, value)
        self.tab.keyboard.press("Tab")
        self.tab.keyboard.press("Escape")

    def put_file(self, chooser: str, path: Path | dict[str, Any]) -> None:
        self.tab.set_input_files(chooser, path)


@pytest.fixture
def open_page(browser: Any, server: LiveServer) -> Iterator[Callable[..., Page]]:
    """Open the page in a browser profile of its own; afterwards there must have been no error."""
    opened: list[Page] = []

    def begin(of: LiveServer = server, **options: Any) -> Page:
        context = browser.new_context(**options)
        page = Page(context.new_page(), of)
        opened.append(page)
        return page

    yield begin
    for page in opened:
        page.tab.context.close()
        assert page.problems == []


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """The page of the demo model, without thinking, with short answers that are always the same."""
    made = open_page().open()
    made.switch_thinking_off()
    made.set("[name=temperature]", "0")
    made.set("[name=max_tokens]", "40")
    return made
