"""The prose in a source file: docstrings, strings, comments; in Markdown the text.

Each reader maps a file's text to segments: the line that a segment begins on, and its text. Lines of one comment
block are one segment, so that a phrase is found across a line break.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Segment(NamedTuple):
    """A piece of prose and the number of its first line, from 1."""

    line: int
    text: str


_STRING_START = re.compile(r"^[A-Za-z]*('''|\"\"\"|'|\")")
_C_TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.DOTALL)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_HASH_COMMENT = re.compile(r"(?:^|\s)#(?!!)[^\n]*", re.MULTILINE)
_FENCE = re.compile(r"^ *```.*?^ *```[^\n]*$", re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r"`[^`\n]+`")
_LINK_TARGET = re.compile(r"\]\([^)\n]*\)")


def segments(path: Path) -> list[Segment]:
    """Return the prose of a file; nothing for a kind of file that has none."""
    reader = _READERS.get(path.name) or _READERS.get(path.suffix)
    if reader is None or path.is_symlink() or not path.is_file():
        return []
    return list(reader(path.read_text(encoding="utf-8", errors="replace")))


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the names in the code of Python and C++, with their lines."""
    if path.is_symlink() or not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix in (".py", ".pyi"):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                yield token.start[0], token.string
    elif path.suffix in (".h", ".hpp", ".c", ".cpp", ".cu"):
        code = _C_TOKEN.sub(lambda match: "\n" * match.group().count("\n"), text)
        for number, line in enumerate(code.split("\n"), start=1):
            for match in _IDENTIFIER.finditer(line):
                yield number, match.group()


def _python(text: str) -> Iterator[Segment]:
    """Give strings (also the literal parts of f-strings) and comments; adjacent ones are joined."""
    parts: list[tuple[int, int, str, str]] = []  # first line, last line, kind, text
    for first, last, kind, piece in _comments_and_strings(text):
        if parts and parts[-1][2] == kind and first <= parts[-1][1] + 1:
            start, end, _, before = parts[-1]
            parts[-1] = (start, last, kind, before + "\n" * (first - end) + piece)
        else:
            parts.append((first, last, kind, piece))
    return (Segment(first, piece) for first, _, _, piece in parts)


def _comments_and_strings(text: str) -> Iterator[tuple[int, int, str, str]]:
    lines = text.splitlines(keepends=True)
    starts: list[tuple[int, int]] = []  # of f-strings that are open, which from Python 3.12 are several tokens
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        if name == "FSTRING_START":
            starts.append(token.start)
        elif name == "FSTRING_END":
            (first, left), (last, right) = starts.pop(), token.end
            if not starts:
                block = "".join(lines[first - 1 : last])
                yield first, last, "string", _unquoted(block[left : len(block) - len(lines[last - 1]) + right])
        elif starts:
            continue
        elif name == "STRING":
            yield token.start[0], token.end[0], "string", _unquoted(token.string)
        elif name == "COMMENT":
            yield token.start[0], token.end[0], "comment", token.string.lstrip("#")


def _unquoted(literal: str) -> str:
    match = _STRING_START.match(literal)
    if match is None:
        return literal
    quote = match.group(1)
    body = literal[match.end() : -len(quote)]
    return re.sub(r"\{[^{}\n]*\}", "{}", body) if "f" in literal[: match.start(1)].lower() else body


def _c(text: str) -> Iterator[Segment]:
    """Give comments and strings of C++, JavaScript, CSS or Go; successive `//` lines are joined."""
    segment: Segment | None = None
    ended = -1
    for match in _C_TOKEN.finditer(text):
        raw = match.group()
        line = text.count("\n", 0, match.start()) + 1
        piece = raw[2:] if raw.startswith(("//", "/*")) else raw[1:-1]
        if segment is not None and raw.startswith("//") and line == ended + 1:
            segment = Segment(segment.line, f"{segment.text}\n{piece}")
        else:
            if segment is not None:
                yield segment
            segment = Segment(line, piece)
        ended = line + raw.count("\n") if raw.startswith("//") else -1
    if segment is not None:
        yield segment


def _markdown(text: str) -> Iterator[Segment]:
    """Give everything but fenced code, code spans and the targets of links."""
    for pattern in (_FENCE, _CODE_SPAN, _LINK_TARGET):
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)
    yield Segment(1, text)


def _hash_comments(text: str) -> Iterator[Segment]:
    """Give the `#` comments of a Makefile, a shell script, TOML, YAML or CMake, also the `##` help of make targets."""
    for match in _HASH_COMMENT.finditer(text):
        comment = match.group().lstrip()
        yield Segment(text.count("\n", 0, match.end() - len(comment)) + 1, comment.lstrip("#"))


def _patch(text: str) -> Iterator[Segment]:
    """Give the message of a patch, and the comments of the lines that it adds."""
    message, _, diff = text.partition("\ndiff --git ")
    yield Segment(1, message)
    first = message.count("\n") + 2
    added = "\n".join(line[1:] if line.startswith("+") else "" for line in diff.split("\n"))
    for line, piece in _c(added):
        yield Segment(first + line - 1, piece)


_READERS: dict[str, Callable[[str], Iterator[Segment]]] = {
    ".py": _python,
    ".pyi": _python,
    **dict.fromkeys((".h", ".hpp", ".c", ".cpp", ".cu", ".go", ".js", ".css"), _c),
    ".md": _markdown,
    ".patch": _patch,
    **dict.fromkeys((".toml", ".yaml", ".yml", ".cmake", ".sh", "CMakeLists.txt", "Makefile", "run"), _hash_comments),
}
