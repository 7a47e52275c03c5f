"""What files and models say must not control a terminal: colours pass, everything else that moves or writes is shown.

A text may come from a download (a name in SHA256SUMS, a value of a header) or from a model. Elsewhere than on a
terminal, texts are written as they are.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

# Control characters but for ends of lines and tabs, and an escape that does not begin a colour.
_CONTROLS = re.compile(r"\x1b(?!\[[0-9;]*m)|\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


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
