"""What this computer has left is what the system and the limits of control groups say."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from qwen35_gguf.runtime.planning import available_memory

pytestmark = pytest.mark.unit


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_available_memory(tmp_path: Path) -> None:
    free = {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   2048 kB\n"}
    assert available_memory.available_bytes(write(tmp_path / "plain", free)) == 2 << 20
    second = free | {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": "7\n",
        "sys/fs/cgroup/a/memory.max": "1000000\n",
        "sys/fs/cgroup/a/memory.current": "900000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 50000\n",
    }
    assert available_memory.available_bytes(write(tmp_path / "v2", second)) == 150_000
    full = second | {"sys/fs/cgroup/a/memory.current": "2000000\n"}
    assert available_memory.available_bytes(write(tmp_path / "full", full)) == 0
    first = free | {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/1\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
        "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "500000\n",
        "sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes": "300000\n",
        "sys/fs/cgroup/memory/docker/1/memory.stat": "total_inactive_file 1000\n",
    }
    assert available_memory.available_bytes(write(tmp_path / "v1", first)) == 201_000
    assert available_memory.available_bytes(tmp_path / "nothing") > 1 << 20
    assert (1 << 20) < available_memory.available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_vm_stat_of_macos() -> None:
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:        100.\nPages active:    900.\n"
        "Pages inactive:   50.\nPages speculative:  7.\nPages wired down:   1.\nPages purgeable:   3.\n"
    )
    assert available_memory._vm_stat(text) == 160 * 16384
    assert available_memory._vm_stat("no such thing") == 0
