"""How many rows of the output matrix a draft of the MTP head reads: the first ones, as many as pay in this text.

Tokens are numbered by merge, so roughly by how frequent they are. In a small model the output matrix is most of what a
draft reads; with fewer rows it costs less, and cannot be a token behind them. Code and English consist almost entirely
of the first tokens, other languages do not: so the text decides. Verification reads all rows, and the text stays the
same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qwen35_gguf.runtime.engine.drafts.acceptance import Rate
from qwen35_gguf.runtime.engine.drafts.draft_depth import expected_tokens, step_seconds
from qwen35_gguf.runtime.engine.drafts.row_costs import ALL, RowCosts, row_counts
from qwen35_gguf.runtime.engine.drafts.step_costs import StepCosts

MEMORY = 64.0  # tokens that an average covers
BETTER = 1.02  # how much faster others must be: the graph is built anew for them


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
        tokens = [expected_tokens(each, costs.max_depth) for each in rates]
        one = costs.draft_of_all_rows * row_costs.of(rows)
        depths = range(1, costs.max_depth + 1)
        return max(sum(each[depth] for each in tokens) / step_seconds(costs.verify, one, depth) for depth in depths)

    speeds = {rows: speed(rows) for rows in (ALL, *row_counts(row_costs.n_vocab))}
    best = max(speeds, key=speeds.__getitem__)
    return best if speeds[best] > BETTER * speeds[current] else current
