"""The limit of this process's address space (`ulimit -v`).

It counts what is reserved and never used as well, and llama.cpp ends the process where a small allocation fails: room
is therefore asked for before the work, and the work refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

from qwen35_gguf.errors import MemoryLimitError
from qwen35_gguf.thread_limit import threads_of_numpy
from qwen35_gguf.units import format_size

STACK = 8 << 20  # of a thread, where there is no limit
IMPORTS = 224 << 20  # numpy, libggml, libllama and what they need
NODE_BYTES = 24_000  # for each node of the largest graph that llama.cpp expects: copies of 60 inputs, and tables
# What must be left after each step of a load: for Python, the graph of a call, and the work memory of matmuls.
RESERVE = 128 << 20


def limit() -> int | None:
    """Return the limit in bytes; None without one."""
    if sys.platform == "win32":
        return None
    import resource

    found = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if found == resource.RLIM_INFINITY else found


def left(root: Path = Path("/")) -> int | None:
    """Return the bytes that the limit leaves; None without a limit, or where the system does not tell what is used.

    Args:
        root: where /proc is.

    """
    if (most := limit()) is None or sys.platform == "win32":
        return None
    import resource

    try:
        pages = int((root / "proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return max(0, most - pages * resource.getpagesize())


def require(needed: int, what: str, threads: int = 0) -> None:
    """Refuse what would reach the limit; without one, do nothing.

    Args:
        needed: bytes, beside those that must be left.
        what: needs them.
        threads: that are started, each with a stack.

    Raises:
        MemoryLimitError: the limit leaves less.

    """
    if (room := left()) is None:
        return
    needed += RESERVE + threads * _stack()
    if needed > room:
        raise MemoryLimitError(
            f"{what}: needs {format_size(needed)} of address space, but the limit of this process leaves "
            f"{format_size(room)}; raise it with `ulimit -v`"
        )


def require_imports() -> None:
    """Refuse a limit below what it takes to import numpy and llama.cpp; errors as of `require`."""
    if limit() is not None:
        require(IMPORTS, "qwen35", threads_of_numpy())


def _stack() -> int:
    """Return the bytes of a thread's stack."""
    if sys.platform == "win32":
        return STACK
    import resource

    found = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return STACK if found == resource.RLIM_INFINITY else found
