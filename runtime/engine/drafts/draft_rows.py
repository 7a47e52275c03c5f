"""How many rows of the output matrix a draft of the MTP head reads: the first ones, as many as pay in this text.

Tokens are numbered by merge, so roughly by how frequent they are. In a small model the output matrix is most of what a
draft reads; with fewer rows it costs less, and cannot be a token behind them. Code and English consist almost entirely
of the first tokens, other languages do not: so the text decides. Verification reads all rows, and the text stays the
same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwen35_gguf.runtime.engine.drafts.acceptance import Rate
from qwen35_gguf.runtime.engine.drafts.draft_depth import step_seconds
from qwen35_gguf.runtime.engine.drafts.draft_plan import expected
from qwen35_gguf.runtime.engine.drafts.step_costs import StepCosts

ALL = 0  # rows
PARTS = (16, 8, 4)  # of the vocabulary
MEMORY = 64.0  # tokens that an average covers
BETTER = 1.02  # how much faster others must be: the graph is built anew for them


@dataclass(frozen=True)
class RowCosts:
    """What a draft costs by its rows, which is a line through two measurements.

    Attributes:
        n_vocab: all rows.
        share: the seconds of a draft with `few_rows` over those of one with all rows.

    """

    n_vocab: int
    share: float

    @property
    def few_rows(self) -> int:
        """The fewest rows that a draft may read."""
        return row_counts(self.n_vocab)[0]

    def of(self, rows: int) -> float:
        """Return the seconds of a draft with some of the rows over those of one with all of them."""
        if rows == ALL:
            return 1.0
        return self.share + (1.0 - self.share) * (rows - self.few_rows) / (self.n_vocab - self.few_rows)


def row_counts(n_vocab: int) -> list[int]:
    """Return the numbers of first rows to choose from beside all of them."""
    return [n_vocab // part for part in PARTS]


class Coverage:
    """Which share of a text's tokens is among the first rows: a moving average for each number of them."""

    __slots__ = ("_shares",)

    def __init__(self, counts: Sequence[int]) -> None:
        """Begin without tokens, which any rows cover."""
        self._shares = {count: Rate(1.0, 0.0, MEMORY) for count in counts}

    def add(self, tokens: Iterable[int]) -> None:
        """Take tokens of the text."""
        for token in tokens:
            for count, share in self._shares.items():
                share.add(token < count)

    def of(self, rows: int) -> float:
        """Return the share of tokens among the first rows."""
        share = self._shares.get(rows)
        return 1.0 if share is None else share.value


def choose_rows(
    current: int, costs: StepCosts, row_costs: RowCosts, texts: Sequence[tuple[Sequence[float], Coverage]]
) -> int:
    """Choose the rows with which drafts of the head alone give the most tokens/s.

    Args:
        current: rows, which are kept unless others are clearly faster.
        costs: of steps for these answers.
        row_costs: of drafts by rows.
        texts: for each answer, how often the head's drafts are right where they can be, and what rows cover.

    """

    def speed(rows: int) -> float:
        rates = [[rate * coverage.of(rows) for rate in head] for head, coverage in texts]
        tokens = [expected(each, costs.max_depth) for each in rates]
        one = costs.draft_of_all_rows * row_costs.of(rows)
        depths = range(1, costs.max_depth + 1)
        return max(sum(each[depth] for each in tokens) / step_seconds(costs.verify, one, depth) for depth in depths)

    speeds = {rows: speed(rows) for rows in (ALL, *row_counts(row_costs.n_vocab))}
    best = max(speeds, key=speeds.__getitem__)
    return best if speeds[best] > BETTER * speeds[current] else current
