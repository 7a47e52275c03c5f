"""Draft what followed when the last tokens came before: in the prompt, the answer so far, or earlier answers.

Source: prompt lookup decoding (Saxena 2023), and for edits the place in the text that is being rewritten: where a token
was replaced, the text behind it is drafted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen35_gguf.runtime.engine.drafts.acceptance import Rates
from qwen35_gguf.runtime.engine.drafts.token_index import MAX_MATCH, NOTHING, TokenIndex

Item = int | str

SEQUENCE_TOKENS, ANSWER_TOKENS = 1 << 17, 1 << 15  # that are looked up in
LEAD = 2  # tokens before an answer, with which it is found
REACH, MOST_WRONG = 12, 8  # tokens of a text that is being rewritten that are left out, and that are new, in one place


@dataclass(frozen=True)
class Match:
    """A draft.

    Attributes:
        source: 0: the sequence itself; 1: earlier answers.
        length: tokens before it that match.
        tokens: the draft.

    """

    source: int
    length: int
    tokens: list[int]


class _Rewritten:
    """The place in a text that is being rewritten, token by token.

    Attributes:
        source: see `Match`.
        place: of what is expected next.
        right: tokens in a row that were as expected.

    """

    def __init__(self, source: int, place: int, right: int) -> None:
        self.source, self.place, self.right = source, place, right
        self._wrong, self._left = 0, place

    def advance(self, held: Sequence[int], token: int) -> bool:
        """Compare a token with the text; report whether the place is still of use."""
        if self.right:
            self._left = self.place
        if self.place < len(held) and held[self.place] == token:
            self.place, self.right, self._wrong = self.place + 1, self.right + 1, 0
            return True
        self.right, self._wrong = 0, self._wrong + 1
        self.place = self._left + self._wrong
        for at in range(self._left, min(self._left + REACH, len(held))):  # what was changed ends here
            if held[at] == token:
                self.place, self.right = at + 1, 1
                break
        return self._wrong <= MOST_WRONG


class NgramDrafter:
    """Drafts for one answer."""

    def __init__(self, items: Sequence[Item], answers: TokenIndex) -> None:
        """Begin after a prompt.

        Args:
            items: of the prompt.
            answers: earlier ones.

        """
        self._indexes = (TokenIndex(SEQUENCE_TOKENS), answers)
        self._tail: list[int] = []
        self._rewritten: _Rewritten | None = None
        self._answers_dropped = answers.dropped
        tokens = [item if isinstance(item, int) else NOTHING for item in items]
        self._indexes[0].extend(tokens)
        self._tail = tokens[-MAX_MATCH:]

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the tokens that came."""
        for token in tokens:
            at = self._rewritten
            if at is not None and not at.advance(self._indexes[at.source].tokens, token):
                self._rewritten = None
        own = self._indexes[0]
        dropped = own.dropped
        own.extend(tokens)
        if own.dropped != dropped or self._indexes[1].dropped != self._answers_dropped:
            self._rewritten, self._answers_dropped = None, self._indexes[1].dropped
        self._tail = [*self._tail, *tokens][-MAX_MATCH:]

    def draft(self, count: int, rates: Rates) -> Match | None:
        """Draft up to `count` tokens after the last one: of what matches, what is expected to be right most often."""
        best: tuple[float, int, int, int] | None = None
        known = self._rewritten
        for source, index in enumerate(self._indexes):
            near = known.place if known is not None and known.source == source else 0
            place, length = index.find(self._tail, near)
            if place and (best is None or length > best[2]):
                best = rates.of_match(source, length, 1)[0], source, length, place
        if known is not None and known.right and (best is None or known.right >= best[2] or known.right < 2):
            rate = rates.of_match(known.source, known.right, 1)[0]
            if best is None or rate >= best[0]:
                best = rate, known.source, known.right, known.place
        if best is None:
            return None
        _, source, length, place = best
        tokens = self._indexes[source].following(place, count)
        if not tokens:
            return None
        if known is None or (known.source, known.place) != (source, place):
            self._rewritten = _Rewritten(source, place, length)
        return Match(source, length, tokens)


def add_answer(answers: TokenIndex, items: Sequence[Item], n_prompt: int) -> None:
    """Add what followed a prompt of `n_prompt` items to earlier answers."""
    answer = items[max(0, n_prompt - LEAD) :]
    answers.extend([*(item if isinstance(item, int) else NOTHING for item in answer), NOTHING])
