"""What a draft of the MTP head costs by the rows of the output matrix that it reads, and which it reads now."""

from __future__ import annotations

from dataclasses import dataclass

ALL = 0  # rows
PARTS = (16, 8, 4)  # of the vocabulary


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


@dataclass
class RowsRead:
    """The first rows that drafts read now: those of all answers, which share the head's calls.

    Attributes:
        count: of rows, or ALL.
        costs: of drafts by rows; None: all rows are always read.

    """

    count: int = ALL
    costs: RowCosts | None = None

    @property
    def choices(self) -> list[int]:
        """The numbers of rows that may be read beside all of them."""
        return row_counts(self.costs.n_vocab) if self.costs is not None else []

    @property
    def share(self) -> float:
        """The seconds of a draft with these rows over those of one with all of them."""
        return self.costs.of(self.count) if self.costs is not None else 1.0
