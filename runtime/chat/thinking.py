"""Separate reasoning and content while the text is still coming; the text that ends a think block early."""

from __future__ import annotations

from typing import NamedTuple

from qwen35_gguf.architecture.tags import END_THINK, THINK
from qwen35_gguf.runtime.chat.tags import MARKS

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
    return prompt.rfind(THINK) > prompt.rfind(END_THINK) and not prompt[prompt.rfind(THINK) + len(THINK) :].strip()


class Splitter:
    """Takes text with marks (see `tags`) and returns reasoning and content, as soon as it is certain which.

    A think block is recognized only at the beginning. White space around reasoning and before the content is dropped.
    How the text is split into pieces does not change what is returned.

    Attributes:
        inside: whether the next character belongs to the think block, as far as is known.

    """

    def __init__(self, *, inside: bool) -> None:
        """Start inside of a think block, or before the content (where a block may still be opened)."""
        self.inside = inside
        self._pending = ""
        self._begun = False  # something other than white space was seen in this part
        self._may_open = not inside

    def feed(self, text: str) -> list[Piece]:
        """Take the next piece of text."""
        pieces: list[Piece] = []
        self._pending += text
        if self.inside:
            self._reason(pieces)
        if not self.inside:
            self._answer(pieces)
        return pieces

    def _reason(self, pieces: list[Piece]) -> None:
        before, found, after = self._pending.partition(MARKS[END_THINK])
        certain = before.rstrip()
        self._give(pieces, certain, reasoning=True)
        if found:
            self._pending, self.inside, self._begun, self._may_open = after, False, False, False
        else:
            self._pending = before[len(certain) :]

    def _answer(self, pieces: list[Piece]) -> None:
        if not self._begun:
            self._pending = self._pending.lstrip()
            if self._may_open and self._pending.startswith(MARKS[THINK]):
                self._pending = self._pending[1:]
                self.inside, self._may_open = True, False
                self._reason(pieces)
                if not self.inside:
                    self._answer(pieces)
                return
        text, self._pending = self._pending, ""
        self._give(pieces, text, reasoning=False)

    def _give(self, pieces: list[Piece], text: str, *, reasoning: bool) -> None:
        if not self._begun:
            text = text.lstrip()
        if text:
            self._begun = True
            pieces.append(Piece(text, reasoning))
