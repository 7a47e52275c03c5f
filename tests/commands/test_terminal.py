"""Answers on a real terminal (a pty) and in a pipe: control characters are shown on the one, and kept in the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
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
    code, found = shown_by(command(reasoning, content))
    assert code == 0, found
    return found.decode()


def shown_by(arguments: Sequence[str]) -> tuple[int, bytes]:
    """Exit code of a program, and what its terminal gets."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(arguments, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    found = b""
    try:
        while piece := os.read(ours, 65_536):
            found += piece
    except OSError:  # Linux: the other end is closed
        pass
    finally:
        os.close(ours)
    return child.wait(60), found


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


BYTES = (
    *(each.encode() for each in HOSTILE),
    b"\xff\xfe",  # no UTF-8
    b"\x9b31m",  # begins a sequence where a terminal has eight bits
    b"\xe6\x97",  # the first two of a character's three bytes
    b"\xed\xa0\x80",  # half a pair of surrogates
)


@pytest.mark.parametrize("verb", ["", "lint --", "inspect", "lint", "metadata"])
@pytest.mark.parametrize("hostile", BYTES, ids=ascii)
def test_a_terminal_shows_names_in_errors(verb: str, hostile: bytes, tmp_path: Path) -> None:
    """An unknown command, an unknown option, and files that are not GGUF."""
    name = os.fsdecode(hostile.replace(b"/", b""))
    if verb.isalpha():
        (tmp_path / name).write_bytes(b"x" * 100)
        name = str(tmp_path / name)
    command, dashes, _ = verb.partition("--")
    arguments = [*command.split(), dashes + name]
    code, found = shown_by([sys.executable, "-m", "qwen35_gguf", *arguments])
    assert code in (1, 2)
    assert b"Traceback" not in found
    text = re.sub(r"\x1b\[[0-9;]*m", "", found.decode()).replace("\r\n", "")  # colours pass
    assert text.isprintable(), found


def test_a_pipe_of_another_encoding_gets_what_it_can_hold() -> None:
    """As on Windows: the bars of `inspect` are not in cp1252."""
    program = "from qwen35_gguf.cli import main; from qwen35_gguf.commands import output; import click\n"
    program += "@main.command('x')\ndef x(): output.console().print('a\\u2588b'); output.echo('c\\u4e2dd')\n"
    program += "main.get_command = lambda ctx, name: x\nmain(['x'])"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a?b\nc?d\n", b"")


def test_a_pipe_that_closes_ends_the_answer() -> None:
    content = "word " * 20_000
    child = subprocess.Popen(command("", content), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    child.stdout.read(10)
    child.stdout.close()
    assert child.wait(60) != 0
