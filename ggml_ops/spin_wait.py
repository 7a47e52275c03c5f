"""How long a thread spins while it waits, in steps of this processor."""

from __future__ import annotations

from qwen35_gguf.ggml_ops import _native


def spin_steps(seconds: float) -> int:
    """Return how many steps of a spinning wait take that long here, at least one.

    A step is a load and a pause instruction. It is measured (0.1 ms), since the pause takes from about 10 cycles to
    140 cycles, depending on the processor.
    """
    return max(1, round(seconds * 1e9 / max(_native.pause_nanoseconds(), 0.1)))
