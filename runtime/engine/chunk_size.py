"""How many tokens of a prompt are evaluated between two tokens of the answers that run beside it."""

from __future__ import annotations

LEAST = 8  # rows; fewer cost as much as these
FIRST = 32  # rows of the first chunk, before anything was measured
SHARE = 0.85  # of the bound that is planned with: times vary
STEP = 0.3  # weight of a new measurement


class ChunkSize:
    """Learns what chunks cost, by their size in powers of two.

    Attributes:
        max_gap: seconds that an answer may wait.
        n_batch: rows of a call at most.

    """

    def __init__(self, max_gap: float, n_batch: int) -> None:
        """Begin without measurements."""
        self.max_gap, self.n_batch = max_gap, n_batch
        self._seconds: dict[int, float] = {}

    def rows(self, step_seconds: float) -> int:
        """Return the rows of the next chunk while answers run whose own step takes `step_seconds`."""
        if not self._seconds:
            return min(FIRST, self.n_batch)
        left = SHARE * self.max_gap - step_seconds
        size = LEAST
        while size < self.n_batch and self.seconds(2 * size) <= left:
            size *= 2
        fraction = min(2.0, max(1.0, left / max(self.seconds(size), 1e-9)))
        return max(1, min(int(size * fraction), self.n_batch))

    def seconds(self, rows: int) -> float:
        """Estimate the time of a chunk: from the nearest size that was measured, in proportion if that is smaller."""
        nearest = min(self._seconds, key=lambda size: (abs(size.bit_length() - rows.bit_length()), -size))
        return self._seconds[nearest] * (rows / nearest if rows > nearest else max(rows / nearest, 0.25))

    def record(self, rows: int, seconds: float) -> None:
        """Learn from a chunk."""
        size = 1 << (rows.bit_length() - 1)
        scaled = seconds * size / rows
        known = self._seconds.get(size)
        self._seconds[size] = scaled if known is None else known + STEP * (scaled - known)
