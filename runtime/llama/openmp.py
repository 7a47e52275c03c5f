"""Let llama.cpp's threads sleep when they wait for long.

llama.cpp computes with OpenMP, whose threads meet at a barrier after every operation of a graph, about a thousand times
a token. GNU's OpenMP spins there for 300,000 steps, several milliseconds. On a busy machine, where the thread that the
others wait for does not have a processor, they spend on that the time in which it could have run. Waits of a quiet
machine are far below `SPIN_SECONDS`; a thread that waits longer sleeps until it is woken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from qwen35_gguf.ggml_ops.spin_wait import spin_steps

SPIN_SECONDS = 40e-6  # above the waits of a quiet machine, far below a time slice of the scheduler (1 to 4 ms)

# What decides how OpenMP waits; if the user set one of them, it stays as it is.
POLICY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@contextmanager
def brief_spinning() -> Iterator[None]:
    """Limit the spinning of an OpenMP library that is loaded meanwhile (it reads the environment when it is loaded).

    Afterwards the environment is as it was, so that other programs that this process starts do not inherit the limit.
    GNU's OpenMP counts steps; LLVM's (macOS) takes milliseconds and would spin for 200.
    """
    if any(name in os.environ for name in POLICY):
        yield
        return
    ours = {"GOMP_SPINCOUNT": str(spin_steps(SPIN_SECONDS)), "KMP_BLOCKTIME": "1"}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
