"""How many more threads this process may start (`ulimit -u`, and the number of processes of a container).

OpenBLAS sends the process SIGINT where a thread does not start, and libgomp ends it: threads are therefore tried before
the work, and the work refused.
"""

from __future__ import annotations

import os
import sys
import threading

from qwen35_gguf.errors import ThreadLimitError

OF_NUMPY = 64  # OpenBLAS makes one for each processor, at most this number
NOT_STARTED = "can't start new thread"  # a RuntimeError of CPython's Modules/_threadmodule.c


def require_threads(count: int, what: str) -> None:
    """Start as many threads as will be needed, and end them again: the system does not say how many there may be.

    Raises:
        ThreadLimitError: not all of them start.

    """
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise ThreadLimitError(f"{what}: {refusal(count, len(started))}") from None
    finally:
        end.set()
        for thread in started:
            thread.join()


def require_imports() -> None:
    """Refuse a limit below what it takes to import numpy; errors as of `require_threads`."""
    if "numpy" not in sys.modules:  # a command is looked up twice; then OpenBLAS has its threads
        require_threads(threads_of_numpy(), "qwen35")


def threads_of_numpy() -> int:
    """Return how many threads OpenBLAS has."""
    return min(os.cpu_count() or 1, OF_NUMPY)


def refusal(needed: int, possible: int) -> str:
    """Say that threads are missing, and what to do."""
    return (
        f"more threads are needed ({needed}) than can be started ({possible}); raise the limit of processes "
        "(`ulimit -u`, or `--pids-limit` of a container)"
    )
