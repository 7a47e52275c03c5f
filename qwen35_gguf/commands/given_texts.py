"""Texts that are read for a command, within a size: files of grammars and JSON schemas, and prompts from stdin."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from qwen35_gguf import bounded_file
from qwen35_gguf.errors import GrammarError, MessageError

LARGEST_RULES = 1 << 20  # bytes; compiled rules may have a million bytes of automata
LARGEST_PROMPT = 64 << 20  # characters; a million tokens of text are a tenth


def read_rules(path: Path, what: str) -> str:
    """Return the text of a file, which may be a pipe; a byte order mark is left out.

    Args:
        path: the file.
        what: it should hold, for messages.

    Raises:
        GrammarError: it cannot be read, is not UTF-8, or is larger than a mebibyte.

    """
    try:
        data = bounded_file.read_bytes(path, LARGEST_RULES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise GrammarError(f"{path}: is larger than {LARGEST_RULES >> 20} MiB; simplify it") from None
        raise GrammarError(f"{path}: cannot be read ({error.strerror or error}); name a file with {what}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GrammarError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start:,}); save it as such") from None


def read_prompt() -> str:
    """Return what stdin has until its end; errors as of `_within`."""
    return _within(sys.stdin.read(LARGEST_PROMPT + 1))


def read_line(shown: str) -> str:
    """Return a line of stdin without its end, edited where it is a terminal; errors as of `_within`.

    Args:
        shown: before it.

    Raises:
        EOFError: there is none.

    """
    if sys.stdin.isatty():
        return input(shown)
    sys.stdout.write(shown)
    sys.stdout.flush()
    if not (line := sys.stdin.readline(LARGEST_PROMPT + 1)):
        raise EOFError
    return _within(line).removesuffix("\n")


def _within(text: str) -> str:
    """Return a text that may be a prompt.

    Raises:
        MessageError: no context would hold it.

    """
    if len(text) > LARGEST_PROMPT:
        raise MessageError(f"stdin: has a text of more than {LARGEST_PROMPT:,} characters; shorten it")
    return text
