"""What commands print: lines for people or JSON on stdout, notes on stderr, by `--json` and `--quiet`.

A command prints its result both ways, `echo` for people and `emit` for programs; one of them prints nothing.

A text may come from a download (a name in SHA256SUMS, a value of a header) or from a model: on a terminal its control
characters are shown, and not obeyed; colours pass. Elsewhere texts are written as they are.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import click

from qwen35_gguf.commands.names.option_names import as_typed

if TYPE_CHECKING:
    from rich.console import Console

_JSON, _QUIET = f"{__name__}.json", f"{__name__}.quiet"
INDENT = 1


def set_json(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    """Record `--json`, for the commands of a group as well."""
    ctx.meta[_JSON] = value or ctx.meta.get(_JSON, False)


def set_quiet(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    """Record `--quiet`, for the commands of a group as well."""
    ctx.meta[_QUIET] = value or ctx.meta.get(_QUIET, False)


def is_json(ctx: click.Context | None = None) -> bool:
    """Whether the result is wanted as JSON."""
    return _is(_JSON, ctx)


def is_quiet(ctx: click.Context | None = None) -> bool:
    """Whether notes and advice are not wanted."""
    return _is(_QUIET, ctx)


def _is(key: str, ctx: click.Context | None) -> bool:
    ctx = ctx or click.get_current_context(silent=True)
    return bool(ctx and ctx.meta.get(key))


def open_closed_streams() -> None:
    """Let a process that was started without stdin, stdout or stderr (`>&-`) have the null device in their place.

    The first file that it opens would get their number otherwise, and what C code prints would be written into it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (until the process ends)


def replace_what_stdout_cannot_encode() -> None:
    """Let stdout write "?" for characters that its encoding does not have, as in pipes on Windows; else it fails."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() not in ("utf-8", "utf8"):
        sys.stdout.reconfigure(errors="replace")


def echo(text: object = "", *, newline: bool = True) -> None:
    """Print a line of the result for people."""
    if not is_json():
        click.echo(_bytes_of(shown(str(text))), nl=newline)


def _bytes_of(text: str) -> str | bytes:
    """Return the bytes of a text with the name of a file that is not UTF-8, and any other text as it is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape" if _ESCAPED.fullmatch(text) else "backslashreplace")
    return text


def advise(text: str) -> None:
    """Print what to do next, after the result for people."""
    if not is_quiet():
        echo(text)


def note(text: str) -> None:
    """Print a note on stderr."""
    if not is_quiet():
        click.echo(shown(text, err=True), err=True)


_ESCAPED = re.compile(r"[^\ud800-\udc7f\udd00-\udfff]*")  # what stands for bytes of a name, and other characters


class LibraryNotes(logging.Handler):
    """Prints what the library warns of as notes, with options named as they are typed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        note(f"note: {as_typed(record.getMessage(), click.get_current_context(silent=True))}")


@contextlib.contextmanager
def library_notes() -> Iterator[None]:
    """Print what the library warns of within a block."""
    logger, handler = logging.getLogger("qwen35_gguf"), LibraryNotes(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def emit(record: Any, *, indent: int | None = INDENT) -> None:
    """Print the result as JSON, one object for a whole command."""
    if is_json():
        click.echo(_bytes_of(json.dumps(_plain(record), indent=indent, ensure_ascii=False)))


def _plain(value: Any) -> Any:
    """Return a value in types of JSON; a number that is not finite becomes null, and a NumPy scalar a number."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return _plain(value.item()) if hasattr(value, "item") else str(value)


def console(**attributes: Any) -> Console:
    """Return a console on stdout for tables and charts; it is silent where JSON is wanted."""
    from rich.console import Console  # not needed for --help and errors

    if sys.stdout.isatty():
        attributes["file"] = EscapedStream(sys.stdout)
    return Console(quiet=is_json(), **attributes)


# ---- what texts of files and models do to a terminal ---------------------------------------------------------------

# Control characters but for ends of lines and tabs, and an escape that does not begin a colour.
# Half a pair of surrogates stands for a byte of a name that is not UTF-8, 0x9b for one, which begins sequences as well.
_CONTROLS = re.compile(r"\x1b(?!\[[0-9;]*m)|\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\ud800-\udfff]")


def escaped(text: str) -> str:
    r"""Return a text with control characters as they are written in Python: \x1b."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def shown(text: str, *, err: bool = False) -> str:
    """Return a text for stdout, or for stderr: with control characters escaped if that is a terminal."""
    stream = sys.stderr if err else sys.stdout
    return escaped(text) if stream is not None and stream.isatty() else text


class EscapedStream:
    """A terminal's stream whose texts are escaped; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        """Take the stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; return the number of its characters."""
        self._stream.write(escaped(text))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
