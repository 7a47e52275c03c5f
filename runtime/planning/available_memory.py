"""How much memory a process may still take, without dependencies."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from qwen35_gguf import address_space
from qwen35_gguf.runtime.control_groups import control_groups, read_number

NO_LIMIT = 1 << 60  # control groups of version 1 write a number near 2^63 for it
# By version of control groups: the limit, what is used, and what of that can be dropped (in memory.stat).
MEMORY_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def available_bytes(root: Path = Path("/")) -> int:
    """Return the bytes that can be taken without swapping; pages of files that can be dropped count as free.

    On Linux also what the limits of the control groups and of the process leave, so that it is right in a container.

    Args:
        root: where /proc and /sys are.

    """
    if sys.platform == "win32":
        return _windows()
    if sys.platform == "darwin":
        return _macos()
    return min([_linux(root), *_control_groups(root), *_own_limit(root)])


def _linux(root: Path) -> int:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else _physical()


def _control_groups(root: Path) -> Iterator[int]:
    """Yield what each limit leaves, from the process's own group up to the outermost."""
    for version, folder in control_groups("memory", root):
        limit_name, usage_name, droppable = MEMORY_FILES[version]
        limit, usage = read_number(folder / limit_name), read_number(folder / usage_name)
        if limit is not None and usage is not None and limit < NO_LIMIT:
            yield max(0, limit - usage + _statistic(folder / "memory.stat", droppable))


def _own_limit(root: Path) -> Iterator[int]:
    """Yield what the limit of this process's address space leaves (`ulimit -v`)."""
    if (room := address_space.left(root)) is not None:
        yield room


def _statistic(path: Path, name: str) -> int:
    try:
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) if found else 0


def _physical() -> int:
    """Half of all memory, where nothing says what is free."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return 4 << 30


def _macos() -> int:
    try:
        text = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return _physical()
    return _vm_stat(text) or _physical()


def _vm_stat(text: str) -> int:
    """Add up the pages that vm_stat counts as free or soon to be."""
    size = re.search(r"page size of (\d+) bytes", text)
    kinds = "free|inactive|speculative|purgeable"
    pages = [int(count) for count in re.findall(rf"^Pages (?:{kinds}):\s+(\d+)\.", text, re.MULTILINE)]
    return sum(pages) * int(size[1]) if size else 0


def _windows() -> int:
    class MemoryStatus(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("available", ctypes.c_ulonglong),
            ("others", ctypes.c_ulonglong * 5),
        )

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 (other systems do not have it)
    return int(status.available) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else _physical()
