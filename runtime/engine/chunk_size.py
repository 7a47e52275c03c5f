"""How many tokens of a prompt are evaluated between two tokens of the answers that run beside it."""

from __future__ import annotations

LEAST = 8  # rows; fewer cost as much as these
FIRST = 32  # rows of the first chunk, before anything was measured
SPARE = 0.12  # of the bound that is left free
ERRORS = 2.0, 1.0  # mean errors of what was expected that are left free, and what they come to at most
MEMORY = 0.95  # weight of what was known of the costs, at each new measurement: fixed part and rows are learned slowly
STEP = 0.3  # weight of a new measurement in the speed: a machine that gets slower is noticed soon
PRIOR = 0.02  # weight of the assumption that times are in proportion to rows, beside what sizes show


class ChunkSize:
    """Learns what chunks cost: a fixed part and one for each row, by least squares of relative errors, and the speed.

    Attributes:
        max_gap: seconds that an answer may wait.
        n_batch: rows of a call at most.

    """

    def __init__(self, max_gap: float, n_batch: int) -> None:
        """Begin without measurements."""
        self.max_gap, self.n_batch = max_gap, n_batch
        # Sums of 1/s^2, rows/s^2, rows^2/s^2, 1/s and rows/s over measurements of s seconds: the normal equations.
        self._ones = self._rows = self._squares = self._inverses = self._speeds = 0.0
        self._costs = 0.0, 0.0  # the fixed part and that of a row, in seconds
        self._scale = 1.0  # of both, now
        self._error = 0.0  # mean of how far times were from what was expected, as a share of that

    def _solve(self) -> tuple[float, float]:
        ones = (1 + PRIOR) * self._ones
        determinant = ones * self._squares - self._rows * self._rows
        fixed = (self._inverses * self._squares - self._speeds * self._rows) / determinant
        row = (ones * self._speeds - self._rows * self._inverses) / determinant
        if fixed < 0 or row <= 0:  # interrupted calls may show anything
            fixed, row = 0.0, self._speeds / self._squares
        return fixed, row

    def seconds(self, rows: int) -> float:
        """Return what rows would cost; 0 before anything was measured."""
        fixed, row = self._costs
        return self._scale * (fixed + row * rows)

    def rows(self, step_seconds: float) -> int:
        """Return the rows of the next call, perhaps 0, where answers have waited or will wait for `step_seconds`."""
        fixed, row = self._costs
        if not row:
            return min(FIRST, self.n_batch)
        left = (1 - SPARE) * self.max_gap - step_seconds
        left /= 1 + min(ERRORS[0] * self._error, ERRORS[1])
        return min(max(0, int((left / self._scale - fixed) / row)), self.n_batch)

    def record(self, rows: int, seconds: float) -> None:
        """Learn from a chunk."""
        seconds = max(seconds, 1e-9)
        if expected := self.seconds(rows):
            self._error += STEP * (abs(seconds - expected) / expected - self._error)
            self._scale += STEP * self._scale * (seconds / expected - 1)
        weight = 1 / seconds
        new = weight * weight, rows * weight * weight, rows * rows * weight * weight, weight, rows * weight
        known = self._ones, self._rows, self._squares, self._inverses, self._speeds
        self._ones, self._rows, self._squares, self._inverses, self._speeds = (
            MEMORY * old + more for old, more in zip(known, new, strict=True)
        )
        before = self.seconds(rows)
        self._costs = self._solve()
        if before:  # what was learned of the parts does not change what is expected here
            self._scale *= before / self.seconds(rows)
