"""Each fault of a machine or an engine is found, alone, with one command; a healthy one has no findings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from oracles.paths import ROOT
from qwen35_gguf.doctor.engine import Engine, Expected, missing, pinned, unused
from qwen35_gguf.doctor.examine import examine
from qwen35_gguf.doctor.host import Host

pytestmark = pytest.mark.unit

Hosts = Callable[..., Host]
Engines = Callable[..., Engine]
CPU = "sys/devices/system/cpu"


def test_a_healthy_machine_has_no_findings(host: Hosts, engine: Engines) -> None:
    assert examine(host(), engine()) == []


def test_a_machine_that_tells_nothing_has_no_findings(engine: Engines, tmp_path: Any) -> None:
    unknown = Host(tmp_path / "empty", (0, 1), ("", ""), {}, "darwin")
    assert examine(unknown, engine()) == []
    assert unknown.processor == unknown.huge_pages == ""


def every(number: int, name: str, text: str) -> dict[str, str]:
    return {f"{CPU}/cpu{one}/{name}": text for one in range(number)}


MACHINES: dict[str, tuple[dict[str, str | None], dict[str, Any], str, str, str]] = {
    # id: files, attributes, name of the finding, words of the problem, the command
    "little memory": (
        {"proc/meminfo": "MemTotal: 2000000 kB\nMemAvailable: 300000 kB\n"},
        {},
        "memory",
        "307 MB of memory are available, and Qwen3.5-0.8B Q4_K_M needs 1.7 GB",
        "ps -eo rss,comm",
    ),
    "little memory in a container": (
        {
            "proc/self/cgroup": "0::/box\n",
            "sys/fs/cgroup/box/memory.max": "400000000\n",
            "sys/fs/cgroup/box/memory.current": "100000000\n",
        },
        {},
        "memory",
        "a container limits it",
        "docker update --memory 4g CONTAINER",
    ),
    "quota, version 2": (
        {"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": "100000 100000\n"},
        {},
        "cpu-limit",
        "a container grants 1 of 2 cores; threads used: 1",
        "docker update --cpus 2 CONTAINER",
    ),
    "quota, version 1": (
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/box\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
        },
        {},
        "cpu-limit",
        "grants 1.5 of 2 cores",
        "docker update --cpus 2 CONTAINER",
    ),
    "governor": (
        every(4, "cpufreq/scaling_driver", "acpi-cpufreq\n"),
        {},
        "power-saver",
        "the governor is powersave",
        f"echo performance | sudo tee /{CPU}/cpu*/cpufreq/scaling_governor",
    ),
    "energy preference": (
        every(1, "cpufreq/energy_performance_preference", "power\n"),
        {},
        "power-saver",
        "the energy preference is power",
        f"echo performance | sudo tee /{CPU}/cpu*/cpufreq/energy_performance_preference",
    ),
    "power profile": (
        {"sys/firmware/acpi/platform_profile": "low-power\n", **every(4, "cpufreq/scaling_driver", "acpi-cpufreq\n")},
        {},
        "power-saver",
        "the power profile is low-power",
        "powerprofilesctl set performance",
    ),
    "turbo": (
        {f"{CPU}/intel_pstate/no_turbo": "1\n"},
        {},
        "power-saver",
        "turbo is off",
        f"echo 0 | sudo tee /{CPU}/intel_pstate/no_turbo",
    ),
    "boost": (
        {f"{CPU}/cpufreq/boost": "0\n"},
        {},
        "power-saver",
        "turbo is off",
        f"echo 1 | sudo tee /{CPU}/cpufreq/boost",
    ),
    "battery": (
        {"sys/class/power_supply/AC/online": "0\n", "sys/class/power_supply/BAT0/status": "Discharging\n"},
        {},
        "battery",
        "plug it in",
        "powerprofilesctl set performance",
    ),
    "pinned threads": (
        {},
        {"environment": {"OMP_PROC_BIND": "close", "GOMP_CPU_AFFINITY": "0-3"}},
        "shared-cores",
        "two on one of the 2 cores (4 processors)",
        "unset OMP_PROC_BIND GOMP_CPU_AFFINITY",
    ),
    "unknown cores": (
        {f"{CPU}/cpu{number}/topology/thread_siblings_list": None for number in range(4)},
        {},
        "shared-cores",
        "does not tell which processors share a core; threads used: 2",
        "qwen35 tune FILE",
    ),
    "thread limit": (
        {},
        {"environment": {"OMP_THREAD_LIMIT": "1"}},
        "thread-limit",
        "OMP_THREAD_LIMIT is 1, and there are 2 cores",
        "unset OMP_THREAD_LIMIT",
    ),
    "huge pages": (
        {"sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n"},
        {},
        "huge-pages",
        "transparent huge pages are off",
        "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
    ),
    "old glibc": ({}, {"libc": ("glibc", "2.17")}, "old-libc", "glibc 2.17, and wheels need", "qwen35 setup"),
    "musl": ({}, {"libc": ("", "")}, "old-libc", "no glibc", "qwen35 setup"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "attributes", "name", "words", "command"), MACHINES.values(), ids=list(MACHINES))
def test_a_fault_of_the_machine_is_found_alone(
    files: dict[str, str | None],
    attributes: dict[str, Any],
    name: str,
    words: str,
    command: str,
    host: Hosts,
    engine: Engines,
) -> None:
    (found,) = examine(host(files, **attributes), engine())
    assert found.name == name
    assert words in found.problem
    assert found.command.startswith(command)


ENGINES: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing": ({"installed": None}, "engine-missing", "is not installed"),
    "stock": ({"patches": ()}, "engine-stock", "without the patches"),
    "illegal instruction": (
        {"failure": "it ends by an illegal instruction", "illegal": True, "features": frozenset()},
        "engine-other-processor",
        "illegal instruction",
    ),
    "another processor": (
        {"features": frozenset({"AVX", "AVX2", "FMA", "F16C", "AVX512", "AVX512_BF16", "AMX_INT8"})},
        "engine-other-processor",
        "it needs AVX512_BF16, AMX_INT8",
    ),
    "broken": ({"failure": "libgomp.so.1: no such file"}, "engine-broken", "libgomp.so.1: no such file"),
    "for less": ({"features": frozenset({"AVX", "AVX2", "FMA", "F16C"})}, "engine-unused", "without AVX512"),
}


@pytest.mark.parametrize(("attributes", "name", "words"), ENGINES.values(), ids=list(ENGINES))
def test_a_fault_of_the_engine_is_found_alone(
    attributes: dict[str, Any], name: str, words: str, host: Hosts, engine: Engines
) -> None:
    (found,) = examine(host(), engine(**attributes))
    assert found.name == name
    assert words in found.problem
    assert found.command.startswith("qwen35 setup")
    assert found.severity == ("warning" if name in ("engine-stock", "engine-unused") else "error")


def test_errors_come_first(host: Hosts, engine: Engines) -> None:
    found = examine(host({"sys/kernel/mm/transparent_hugepage/enabled": "[never]"}), engine(installed=None))
    assert [finding.severity for finding in found] == ["error", "note"]


def test_an_engine_of_older_patches_or_kernels(host: Hosts, engine: Engines) -> None:
    expected = Expected(patches=("0001-a", "0002-b"), series="new")

    def found(patches: tuple[str, ...], series: str) -> list[str]:
        return [one.problem for one in examine(host(), engine(patches, series), expected) if one.name == "engine-old"]

    assert found(("0001-a", "0002-b"), "new") == []
    assert found(("0001-a", "0002-b"), "") == []  # a build that recorded no series
    assert "have changed since" in found(("0001-a", "0002-b"), "old")[0]
    assert "patches 0002 are missing" in found(("0001-a",), "")[0]
    assert found((), "") == []  # stock, which is another finding


def test_an_engine_of_another_version(host: Hosts, engine: Engines) -> None:
    (found,) = examine(host(), engine(), Expected(versions={"llama-cpp-python": "0.3.40"}))
    assert found.name == "engine-version"
    assert "llama-cpp-python is 0.3.36, and this package is made for 0.3.40" in found.problem
    assert examine(host(), engine(), Expected(versions={"llama-cpp-python": "0.3.36", "qwen35-engine": "1"})) == []


def test_the_versions_are_those_of_the_extras() -> None:
    texts = ["numpy>=1", 'llama_cpp_python==0.3.36; extra == "llama-cpp"', 'qwen35-engine==0.3.36.post1; extra == "x"']
    assert pinned(texts) == {"llama-cpp-python": "0.3.36", "qwen35-engine": "0.3.36.post1"}
    assert set(Expected.here().versions) == {"llama-cpp-python", "qwen35-engine"}


def test_instruction_sets_where_the_system_does_not_tell() -> None:
    assert missing({"AVX512"}, frozenset()) == ()
    assert unused({"AVX"}, frozenset()) == ()
    assert missing({"NEON", "SVE"}, frozenset({"asimd"})) == ("SVE",)


def test_every_finding_is_in_the_documents() -> None:
    checks = (ROOT / "qwen35_gguf" / "doctor").glob("*_checks.py")
    names = {
        name for file in checks for name in re.findall(r'Finding\(\s*"([\w-]+)"', file.read_text(encoding="utf-8"))
    }
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert len(names) > 10
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
