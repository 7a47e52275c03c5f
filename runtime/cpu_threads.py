"""How many threads to compute with."""

from __future__ import annotations

import os
from pathlib import Path


def default_threads() -> int:
    """Count the physical cores that this process may use; half the logical ones where the system does not tell."""
    logical = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    cores = set()
    try:
        for cpu in logical:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
    except OSError:
        return max(1, len(logical) // 2)
    return max(1, len(cores))
