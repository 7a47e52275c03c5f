"""How many tokens of a prompt are evaluated between two tokens of the answers that run beside it."""

from __future__ import annotations

LEAST = 8  # rows; fewer cost as much as these
FIRST = 32  # rows of the first chunk, before anything was measured
SPARE = 0.1, 0.4  # of the bound that is left free, at least and at most: times vary
ERRORS = 2.5  # mean errors of what was expected that are left free
STEP = 0.3  # weight of a new measurement
PRIOR = 0.05  # weight of the assumption that times are in proportion to rows, beside what sizes show


class ChunkSize:
    """Learns what chunks cost: a fixed part and a part for each row, from moving averages of rows and seconds.

    Attributes:
        max_gap: seconds that an answer may wait.
        n_batch: rows of a call at most.

    """

    def __init__(self, max_gap: float, n_batch: int) -> None:
        """Begin without measurements."""
        self.max_gap, self.n_batch = max_gap, n_batch
        self._rows = self._seconds = 0.0  # means
        self._squares = self._products = 0.0  # variance of rows, covariance of rows and seconds
        self._error = 0.0  # mean of how far times were from what was expected, as a share of that

    def _costs(self) -> tuple[float, float]:
        """Return the fixed part and the part for each row, in seconds."""
        proportion = PRIOR * self._rows * self._rows
        row = (self._products + proportion * self._seconds / self._rows) / (self._squares + proportion)
        row = max(row, 0.1 * self._seconds / self._rows)  # interrupted calls may show anything
        return max(0.0, self._seconds - row * self._rows), max(row, 1e-9)

    def rows(self, step_seconds: float) -> int:
        """Return the rows of the next call, perhaps 0, where answers have waited or will wait for `step_seconds`."""
        if not self._rows:
            return min(FIRST, self.n_batch)
        fixed, row = self._costs()
        spare = min(max(SPARE[0], ERRORS * self._error), SPARE[1])
        left = (1 - spare) * self.max_gap - step_seconds - fixed
        return min(max(0, int(left / row)), self.n_batch)

    def record(self, rows: int, seconds: float) -> None:
        """Learn from a chunk."""
        if not self._rows:
            self._rows, self._seconds = float(rows), seconds
            return
        fixed, row = self._costs()
        expected = fixed + row * rows
        self._error += STEP * (abs(seconds - expected) / expected - self._error)
        more, longer = rows - self._rows, seconds - self._seconds
        self._rows += STEP * more
        self._seconds += STEP * longer
        self._squares = (1 - STEP) * (self._squares + STEP * more * more)
        self._products = (1 - STEP) * (self._products + STEP * more * longer)
