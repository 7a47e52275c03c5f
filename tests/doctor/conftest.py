"""A healthy machine as a tree of files, and engines, that tests change in one place each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qwen35_gguf.doctor.engine import Engine
from qwen35_gguf.doctor.host import Host
from qwen35_gguf.llama_package import BINDINGS, Installed

GIB = 1 << 20  # in the unit of /proc/meminfo
FLAGS = "fpu pni ssse3 avx f16c fma avx2 bmi2 avx512f avx512_vnni"
HEALTHY = {
    "proc/cpuinfo": f"processor : 0\nmodel name\t: Example 9000\nflags\t\t: {FLAGS}\n",
    "proc/meminfo": f"MemTotal: {16 * GIB} kB\nMemAvailable: {12 * GIB} kB\n",
    "proc/self/cgroup": "0::/user.slice\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "1\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Charging\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
    **{
        f"sys/devices/system/cpu/cpu{number}/{name}": text
        for number in range(4)
        for name, text in {
            "topology/thread_siblings_list": f"{number // 2 * 2}-{number // 2 * 2 + 1}\n",
            "cpufreq/scaling_governor": "powersave\n",
            "cpufreq/scaling_driver": "intel_pstate\n",
            "cpufreq/energy_performance_preference": "balance_performance\n",
        }.items()
    },
}


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., Host]:
    """Make a machine: a healthy one with some files changed (None: removed), and with other attributes."""

    def make(files: dict[str, str | None] | None = None, **attributes: object) -> Host:
        for name, text in {**HEALTHY, **(files or {})}.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(text, encoding="utf-8")
        given = {"processors": (0, 1, 2, 3), "libc": ("glibc", "2.36"), "environment": {}, "system": "linux"}
        return Host(tmp_path / "root", **{**given, **attributes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def engine() -> Callable[..., Engine]:
    """Make an engine: a patched one with some attributes changed."""

    def make(patches: tuple[str, ...] = ("0001-a",), series: str = "", **attributes: object) -> Engine:
        installed = Installed("0.3.36", Path("llama_cpp"), patches, BINDINGS, series)
        features = frozenset({"AVX", "AVX2", "FMA", "F16C", "AVX512"})
        return Engine(**{"installed": installed, "features": features, **attributes})  # type: ignore[arg-type]

    return make
