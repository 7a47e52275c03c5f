"""Checks of the machine: what makes models slow here, or leaves no room for them."""

from __future__ import annotations

from collections.abc import Iterator

from qwen35_gguf.architecture.family import FAMILY
from qwen35_gguf.doctor.engine import Engine
from qwen35_gguf.doctor.finding import Finding
from qwen35_gguf.doctor.host import CPU, Host
from qwen35_gguf.offers.fitting_sizes import QUANTS, plan_size
from qwen35_gguf.runtime.planning.plan import Machine
from qwen35_gguf.units import format_size

LEAST_GLIBC = (2, 28)  # of the wheels
PLENTY = 1 << 60
GOVERNOR = "cpufreq/scaling_governor"
PREFERENCE = "cpufreq/energy_performance_preference"
# With these drivers the governor `powersave` scales with the load; the preference decides.
SCALING_DRIVERS = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
SAVING_PREFERENCES, SAVING_GOVERNORS = {"power", "balance_power"}, {"powersave", "conservative"}
SAVING_PROFILES = ("low-power", "quiet", "cool")
TURBO = (("intel_pstate/no_turbo", "1"), ("cpufreq/boost", "0"))  # a file, and what it has where turbo is off
PINNING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


def little_memory(host: Host, _engine: Engine) -> Finding | None:
    """Find that not even the smallest size fits."""
    free, smallest = host.available_memory, FAMILY[0]
    if any(plan_size(Machine(max(free, 1)), smallest, quant) for quant in QUANTS):
        return None
    needed = plan_size(Machine(PLENTY), smallest, QUANTS[0])
    size = f"Qwen3.5-{smallest.name} {QUANTS[0]} needs {format_size(needed.memory)}" if needed else ""
    problem = f"{format_size(free)} of memory are available, and {size} with 16,384 tokens of context"
    if limited(host):
        return Finding("memory", "warning", f"{problem}; a container limits it", "docker update --memory 4g CONTAINER")
    return Finding("memory", "warning", f"{problem}; close other programs", "ps -eo rss,comm --sort=-rss | head")


def limited(host: Host) -> bool:
    """Tell whether a control group leaves less than the machine has available."""
    free = host.read("proc/meminfo").partition("MemAvailable:")[2].split()
    return bool(free) and host.available_memory < int(free[0]) * 1024


def cpu_quota(host: Host, _engine: Engine) -> Finding | None:
    """Find a container that grants fewer processors than there are cores."""
    limit, cores = host.cpu_limit, host.cores or len(host.processors)
    if limit is None or limit >= cores:
        return None
    problem = f"a container grants {limit:g} of {cores} cores; threads used: {max(1, int(limit))}"
    return Finding("cpu-limit", "warning", problem, f"docker update --cpus {cores} CONTAINER")


def huge_pages(host: Host, _engine: Engine) -> Finding | None:
    """Find that the kernel gives no transparent huge pages."""
    if host.huge_pages != "never":
        return None
    problem = "transparent huge pages are off: the processor looks up addresses of KV cache and weights more often"
    command = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    return Finding("huge-pages", "note", problem, command)


def power_saver(host: Host, _engine: Engine) -> Finding | None:
    """Find a setting that holds the clock of the processor down."""
    found = next(_savers(host), None)
    if found is None:
        return None
    problem, command = found
    return Finding("power-saver", "warning", f"{problem}: the processor runs below its clock", command)


def _savers(host: Host) -> Iterator[tuple[str, str]]:
    """Yield what holds the clock down and the command against it, from what decides about the rest."""
    profile = host.read("sys/firmware/acpi/platform_profile")
    if profile in SAVING_PROFILES:
        yield f"the power profile is {profile}", "powerprofilesctl set performance"
    preferences = host.per_processor(PREFERENCE)
    if preferences and not host.per_processor("cpufreq/scaling_driver").isdisjoint(SCALING_DRIVERS):
        for one in sorted(preferences & SAVING_PREFERENCES):
            yield f"the energy preference is {one}", f"echo performance | sudo tee /{CPU}/cpu*/{PREFERENCE}"
    else:
        for one in sorted(host.per_processor(GOVERNOR) & SAVING_GOVERNORS):
            yield f"the governor is {one}", f"echo performance | sudo tee /{CPU}/cpu*/{GOVERNOR}"
    for name, off in TURBO:
        if host.read(f"{CPU}/{name}") == off:
            yield "turbo is off", f"echo {1 - int(off)} | sudo tee /{CPU}/{name}"


def battery(host: Host, _engine: Engine) -> Finding | None:
    """Find a laptop that runs on its battery."""
    if not host.on_battery:
        return None
    problem = "the machine runs on its battery, which lowers the clock: plug it in"
    return Finding("battery", "note", problem, "powerprofilesctl set performance")


def shared_cores(host: Host, _engine: Engine) -> Finding | None:
    """Find settings under which threads share a core: one thread for each physical core is fastest."""
    processors, cores = len(host.processors), host.cores
    pinned = [name for name in PINNING if host.environment.get(name, "").lower() not in ("", "false")]
    if cores is not None and processors > cores and pinned:
        problem = f"{pinned[0]} pins threads, which may put two on one of the {cores} cores ({processors} processors)"
        return Finding("shared-cores", "warning", problem, f"unset {' '.join(pinned)}")
    if cores is None and processors > 1 and host.system.startswith("linux"):
        problem = f"the system does not tell which processors share a core; threads used: {processors // 2}"
        return Finding("shared-cores", "note", problem, "qwen35 tune FILE")
    return None


def thread_limit(host: Host, _engine: Engine) -> Finding | None:
    """Find a limit of OpenMP that is below the number of cores."""
    limit, cores = host.environment.get("OMP_THREAD_LIMIT", ""), host.cores or 1
    if not limit.isdecimal() or int(limit) >= cores:
        return None
    problem = f"OMP_THREAD_LIMIT is {limit}, and there are {cores} cores"
    return Finding("thread-limit", "warning", problem, "unset OMP_THREAD_LIMIT")


def old_libc(host: Host, _engine: Engine) -> Finding | None:
    """Find a C library for which there are no wheels."""
    name, version = host.libc
    if not host.system.startswith("linux") or (name == "glibc" and _numbers(version) >= LEAST_GLIBC):
        return None
    least = ".".join(map(str, LEAST_GLIBC))
    what = f"glibc {version}" if name == "glibc" else "no glibc (musl?)"
    problem = f"there is {what}, and wheels need glibc {least}: llama.cpp is compiled instead, which takes minutes"
    return Finding("old-libc", "note", problem, "qwen35 setup")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
