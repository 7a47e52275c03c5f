"""Facts of a machine are read from files below a root, and threads do not exceed what a container grants."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qwen35_gguf.doctor.host import Host
from qwen35_gguf.runtime import cpu_threads

pytestmark = pytest.mark.unit

Hosts = Callable[..., Host]


def test_the_facts(host: Hosts) -> None:
    found = host()
    assert (found.processor, found.huge_pages, found.cores, found.cpu_limit) == ("Example 9000", "madvise", 2, None)
    assert (found.total_memory, found.available_memory) == (16 << 30, 12 << 30)
    assert {"avx2", "avx512f"} <= found.instruction_sets
    assert not found.on_battery


@pytest.mark.parametrize(
    ("files", "limit", "threads"),
    [
        ({}, None, 2),
        ({"sys/fs/cgroup/user.slice/cpu.max": "max 100000\n"}, None, 2),
        ({"sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n"}, 1.5, 1),
        ({"sys/fs/cgroup/user.slice/cpu.max": "50000 100000\n"}, 0.5, 1),
        ({"sys/fs/cgroup/user.slice/cpu.max": "800000 100000\n"}, 8, 2),
        ({"sys/fs/cgroup/user.slice/cpu.max": "nonsense\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1, 1),
        ({"proc/self/cgroup": "4:cpu:/a\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n"}, None, 2),
    ],
)
def test_threads_within_the_limit_of_a_container(
    files: dict[str, str], limit: float | None, threads: int, host: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = host(files)
    monkeypatch.setattr(cpu_threads, "usable_processors", lambda: found.processors)
    assert found.cpu_limit == limit
    assert cpu_threads.default_threads(found.root) == threads


def test_threads_where_the_system_does_not_tell(host: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    found = host({f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": None for number in range(4)})
    monkeypatch.setattr(cpu_threads, "usable_processors", lambda: found.processors)
    assert cpu_threads.default_threads(found.root) == 2
