"""Separate reasoning and content while the text is still coming; the text that ends a think block early."""

from __future__ import annotations

import codecs
from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"
# Source: Qwen's documentation of the thinking budget.
OUT_OF_BUDGET = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
)
# What the template writes after a think block, before the answer.
AFTER = "\n\n"


class Piece(NamedTuple):
    """A part of the generated text."""

    text: str
    reasoning: bool


def starts_inside(prompt: str) -> bool:
    """Report whether a rendered prompt ends inside of a think block."""
    return prompt.rfind(OPEN) > prompt.rfind(CLOSE) and not prompt[prompt.rfind(OPEN) + len(OPEN) :].strip()


class Splitter:
    """Takes the bytes of tokens and returns reasoning and content, as soon as it is certain which.

    No part of a tag is returned as text. A think block is recognized only at the beginning. White space around
    reasoning and before the content is dropped. A character that is split over tokens arrives whole; invalid bytes are
    left out. How the bytes are split into tokens does not change the texts.

    Attributes:
        inside: whether the next byte belongs to the think block, as far as is known.

    """

    def __init__(self, *, inside: bool) -> None:
        """Start inside of a think block, or before the content (where a block may still be opened)."""
        self.inside = inside
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._pending = ""
        self._begun = False  # something other than white space was seen in this part
        self._may_open = not inside

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes."""
        self._pending += self._decoder.decode(data)
        return self._advance(final=False)

    def finish(self) -> list[Piece]:
        """Return the rest, since no more bytes come; a truncated character is dropped."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        if self.inside:
            self._reason(pieces, final=final)
        if not self.inside:
            self._answer(pieces, final=final)
        return pieces

    def _reason(self, pieces: list[Piece], *, final: bool) -> None:
        before, found, after = self._pending.partition(CLOSE)
        if found:
            self._give(pieces, before.rstrip(), reasoning=True)
            self._pending, self.inside, self._begun, self._may_open = after, False, False, False
        else:
            safe = len(before.rstrip()) if final else _certain(before, CLOSE)
            self._give(pieces, before[:safe], reasoning=True)
            self._pending = "" if final else before[safe:]

    def _answer(self, pieces: list[Piece], *, final: bool) -> None:
        if not self._begun:
            self._pending = self._pending.lstrip()
            if self._may_open and self._pending.startswith(OPEN):
                self._pending = self._pending[len(OPEN) :]
                self.inside, self._may_open = True, False
                self._reason(pieces, final=final)
                if not self.inside:
                    self._answer(pieces, final=final)
                return
            if self._may_open and not final and self._pending and OPEN.startswith(self._pending):
                return
        text, self._pending = self._pending, ""
        self._give(pieces, text, reasoning=False)

    def _give(self, pieces: list[Piece], text: str, *, reasoning: bool) -> None:
        if not self._begun:
            text = text.lstrip()
        if text:
            self._begun = True
            pieces.append(Piece(text, reasoning))


def _certain(text: str, tag: str) -> int:
    """Return the length of `text` without what may be the start of `tag` at its end, and the white space before it."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[-length:]):
            return len(text[:-length].rstrip())
    return len(text.rstrip())
