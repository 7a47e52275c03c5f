"""How many threads to compute with."""

from __future__ import annotations

import os
from pathlib import Path

from qwen35_gguf.runtime.control_groups import cpu_limit


def default_threads(root: Path = Path("/")) -> int:
    """Count the physical cores that this process may use, as far as its control groups grant them.

    A thread beyond the limit of a container would be stopped for the rest of each period while the others wait for it.

    Args:
        root: where /proc and /sys are.

    """
    cores = physical_cores(usable_processors(), root)
    if cores is None:  # the system does not tell
        cores = max(1, len(usable_processors()) // 2)
    limit = cpu_limit(root)
    return cores if limit is None else max(1, min(cores, int(limit)))


def usable_processors() -> tuple[int, ...]:
    """Return the numbers of the logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def physical_cores(processors: tuple[int, ...], root: Path = Path("/")) -> int | None:
    """Count the cores of logical processors; None where the system does not tell which of them share one."""
    cores = set()
    try:
        for number in processors:
            topology = root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
            cores.add(topology.read_text())
    except OSError:
        return None
    return len(cores) or None
