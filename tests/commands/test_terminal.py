"""Answers on a real terminal (a pty) and in a pipe: control characters are shown on the one, and kept in the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX's")

HOSTILE = (
    "\x1b[2J\x1b[1;1H",  # clears the screen
    "\x1b]0;title\x07",  # sets its title
    "\x1b]52;c;cm0gLXJmIH4=\x07",  # fills the clipboard
    "\x9b31m",  # the same as \x1b[, in one character
    "a\rb",  # overwrites the line
)
PROGRAM = """
import sys
from qwen35_gguf.commands import terminal
from qwen35_gguf.runtime.chat.openai_types import ChatCompletionChunk, ChunkChoice, Delta

def chunk(**fields):
    return ChatCompletionChunk("model", [ChunkChoice(Delta(**fields))], "id", 0)

reasoning, content = sys.argv[1:]
pieces = [chunk(reasoning_content=each) for each in reasoning] + [chunk(content=each) for each in content]
message, _ = terminal.show(pieces)
assert (message.content, message.reasoning_content or '') == (content, reasoning)
"""


def command(reasoning: str, content: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, reasoning, content]


def on_a_terminal(reasoning: str, content: str) -> str:
    """What a terminal gets that is stdout and stderr."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(command(reasoning, content), stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    found = b""
    try:
        while piece := os.read(ours, 65_536):
            found += piece
    except OSError:  # Linux: the other end is closed
        pass
    finally:
        os.close(ours)
    assert child.wait(60) == 0, found
    return found.decode()


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_a_terminal_shows_control_characters(hostile: str) -> None:
    found = on_a_terminal(f"I think {hostile}.", f"Well, {hostile}!")
    escaped = ascii(hostile)[1:-1]
    assert f"Well, {escaped}!" in found
    not_dimmed = found.replace("\x1b[2m", "").replace("\x1b[0m", "")  # as reasoning is
    assert f"I think {escaped}." in not_dimmed
    assert not_dimmed.replace("\r\n", "").isprintable()


def test_a_terminal_shows_lines_tabs_and_other_scripts() -> None:
    found = on_a_terminal("", "one\n\ttwo\n日本語 🙂 é")
    assert found == "one\r\n\ttwo\r\n日本語 🙂 é\r\n"


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_a_pipe_gets_the_text_as_it_is(hostile: str, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(command(hostile, hostile), stdout=out, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes().decode() == f"{hostile}\n"


def test_a_pipe_that_closes_ends_the_answer() -> None:
    content = "word " * 20_000
    child = subprocess.Popen(command("", content), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    child.stdout.read(10)
    child.stdout.close()
    assert child.wait(60) != 0
