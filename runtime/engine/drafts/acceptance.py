"""How often drafts are right: moving averages for each kind of draft, of one text.

A draft of an n-gram is right the more often the longer its match is, and each token of it that is right makes the match
longer: so one average for each length serves all places of a draft.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MEMORY = 20.0  # observations that an average covers
NEW_TEXT = 3.0  # observations that the averages of earlier texts count as
PRIOR = 0.6  # of the MTP head, before the first observation
PRIOR_WEIGHT = 2.0

# Lengths of matches with an average of their own; measured on edits of code, JSON and prose (bench/replay.py).
LENGTHS = (1, 2, 3, 4, 5, 8, 16)
PRIORS = (0.4, 0.4, 0.6, 0.65, 0.75, 0.8, 0.9)
_CLASSES = [sum(least <= length for least in LENGTHS[1:]) for length in range(LENGTHS[-1] + 1)]
SOURCES = 2  # the sequence itself, and earlier answers


class Rate:
    """A moving average of hits and misses.

    Attributes:
        value: from 0 to 1.
        weight: observations that it stands for.
        memory: observations that it covers at most.

    """

    __slots__ = ("memory", "value", "weight")

    def __init__(self, value: float, weight: float = PRIOR_WEIGHT, memory: float = MEMORY) -> None:
        self.value, self.weight, self.memory = value, weight, memory

    def add(self, hit: bool) -> None:
        """Take an observation."""
        self.weight = min(self.weight + 1.0, self.memory)
        self.value += (hit - self.value) / self.weight

    def copy(self) -> Rate:
        """Return where another text begins."""
        return Rate(self.value, min(self.weight, NEW_TEXT), self.memory)


class Rates:
    """The averages of one text.

    Attributes:
        head: of each place of the MTP head's drafts, if those before it are right, and it can be right.
        ngrams: of a next token, by source and class of its match.
        agree: how often the head drafts the token that the n-gram does.
        agreed: how often the token is right then.

    """

    def __init__(self, head: Iterable[Rate], ngrams: Iterable[Rate], agree: Rate, agreed: Rate) -> None:
        """Take averages; see `begin`."""
        self.head, self.ngrams, self.agree, self.agreed = list(head), list(ngrams), agree, agreed

    @classmethod
    def begin(cls, depth: int) -> Rates:
        """Return what is assumed before the first text, for up to `depth` drafts of the head."""
        ngrams = [Rate(prior) for _ in range(SOURCES) for prior in PRIORS]
        return cls([Rate(PRIOR) for _ in range(depth)], ngrams, Rate(0.5), Rate(0.9))

    def copy(self) -> Rates:
        """Return where another text begins."""
        return Rates(
            [rate.copy() for rate in self.head],
            [rate.copy() for rate in self.ngrams],
            self.agree.copy(),
            self.agreed.copy(),
        )

    def of_head(self) -> list[float]:
        """Return the rates of the head's places."""
        return [rate.value for rate in self.head]

    def of_match(self, source: int, length: int, count: int) -> list[float]:
        """Return the rates of the places of a draft of `count` tokens, whose match has a length."""
        return [self.ngrams[place].value for place in self._places(source, length, count)]

    def add_match(self, source: int, length: int, drafts: Sequence[int], truth: Sequence[int]) -> None:
        """Learn from what came in place of a draft."""
        for place, draft, token in zip(self._places(source, length, len(drafts)), drafts, truth, strict=False):
            self.ngrams[place].add(draft == token)
            if draft != token:
                break

    def add_head(self, drafts: Sequence[int], truth: Sequence[int], rows: int = 0) -> None:
        """Learn from what came in place of the head's drafts, which are among the first `rows` tokens, if not 0."""
        for rate, draft, token in zip(self.head, drafts, truth, strict=False):
            if rows and token >= rows:  # no draft could be right, whatever the head knows
                break
            rate.add(draft == token)
            if draft != token:
                break

    @staticmethod
    def _places(source: int, length: int, count: int) -> list[int]:
        first, last = source * len(LENGTHS), LENGTHS[-1]
        return [first + _CLASSES[min(length + i, last)] for i in range(count)]
