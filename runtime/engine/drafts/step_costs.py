"""What steps cost on this machine: measured once, and followed as the context grows and the load changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qwen35_gguf.runtime.engine.drafts.row_costs import RowsRead

WEIGHT = 0.1  # of a new measurement
OUTLIER = 2.0  # a step that takes more than this many times as long was interrupted
STALE = 30  # steps after which a cost follows that of the other depths


class StepCosts:
    """Seconds of the parts of a step.

    Attributes:
        verify: of 1, 2, ... tokens of the main model for each answer in one call.
        draft_of_all_rows: of one token of the MTP head for each answer, with all rows of the output matrix.

    """

    def __init__(self, verify: Sequence[float], draft: float, rows: RowsRead | None = None) -> None:
        """Take a first measurement; a step of more tokens is assumed to cost no less.

        Args:
            verify: see the attributes.
            draft: of one token of the MTP head, with all rows of the output matrix.
            rows: that drafts read, as they change; None: all.

        """
        self.verify = [float(cost) for cost in np.maximum.accumulate(np.asarray(verify, np.float64))]
        self.draft_of_all_rows, self._rows = draft, rows or RowsRead()
        self._age = [STALE] * len(self.verify)

    @property
    def draft(self) -> float:
        """Seconds of one token of the MTP head for each answer."""
        return self.draft_of_all_rows * self._rows.share

    @property
    def max_depth(self) -> int:
        """The most drafts."""
        return len(self.verify) - 1

    def seconds(self, depth: int, head: int) -> float:
        """Return the time of a step with `depth` drafts, of which the head made `head`."""
        return self.verify[depth] + head * self.draft

    def record(self, depth: int, head: int, verify_seconds: float, draft_seconds: float) -> None:
        """Learn from a step.

        What a longer context adds to a step of one depth it adds to those of the others, too: costs that were not
        measured for a while follow.
        """
        change = _change(self.verify[depth], verify_seconds)
        for other in range(len(self.verify)):
            self._age[other] += 1
            if other != depth and self._age[other] > STALE:
                self.verify[other] = max(self.verify[other] + change, 0.1 * self.verify[other])
        self.verify[depth] += change
        for other in range(depth):  # measured while something else ran: fewer tokens cost no more
            self.verify[other] = min(self.verify[other], self.verify[depth])
        self._age[depth] = 0
        if head:
            self.draft_of_all_rows += _change(self.draft_of_all_rows, draft_seconds / head / self._rows.share)


def _change(known: float, seen: float) -> float:
    return WEIGHT * (min(seen, OUTLIER * known) - known)
