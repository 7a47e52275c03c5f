"""Facts about this machine, read from the files of Linux below a root folder; elsewhere little is known."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qwen35_gguf.runtime.control_groups import cpu_limit
from qwen35_gguf.runtime.cpu_threads import physical_cores, usable_processors
from qwen35_gguf.runtime.planning.available_memory import available_bytes

CPU = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Host:
    """A machine, as the checks see it.

    Attributes:
        root: where /proc and /sys are.
        processors: the logical ones that this process may use.
        libc: name and version of the C library; empty where Python does not know.
        environment: variables of this process.
        system: `sys.platform`.

    """

    root: Path = Path("/")
    processors: tuple[int, ...] = field(default_factory=usable_processors)
    libc: tuple[str, str] = field(default_factory=platform.libc_ver)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    system: str = sys.platform

    def read(self, name: str) -> str:
        """Read a file below the root; empty if it cannot be read."""
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    @property
    def instruction_sets(self) -> frozenset[str]:
        """What the processor has, in the kernel's names; empty where the system does not tell."""
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", self.read("proc/cpuinfo"), re.MULTILINE)
        return frozenset(found[1].split()) if found else frozenset()

    @property
    def processor(self) -> str:
        """The name of the processor; empty where the system does not tell."""
        found = re.search(r"^model name\s*:\s*(.*)$", self.read("proc/cpuinfo"), re.MULTILINE)
        return found[1] if found else ""

    @property
    def huge_pages(self) -> str:
        """Which memory gets transparent huge pages: always, madvise or never; empty where the system does not tell."""
        chosen = re.search(r"\[(\w+)\]", self.read("sys/kernel/mm/transparent_hugepage/enabled"))
        return chosen[1] if chosen else ""

    @property
    def cores(self) -> int | None:
        """Physical cores that this process may use; None where the system does not tell."""
        return physical_cores(self.processors, self.root)

    @property
    def cpu_limit(self) -> float | None:
        """Processors that a container grants; None without a limit."""
        return cpu_limit(self.root)

    @property
    def total_memory(self) -> int:
        """Bytes of RAM of the whole machine; 0 where the system does not tell."""
        found = re.search(r"^MemTotal:\s+(\d+) kB", self.read("proc/meminfo"), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    @property
    def available_memory(self) -> int:
        """Bytes that may be taken, within the limit of a container."""
        return available_bytes(self.root)

    def per_processor(self, name: str) -> frozenset[str]:
        """Read a file of each usable processor's folder; the contents that there are."""
        contents = {self.read(f"{CPU}/cpu{number}/{name}") for number in self.processors}
        return frozenset(contents - {""})

    @property
    def on_battery(self) -> bool:
        """Whether there is a supply for the mains, and none is plugged in."""
        supplies = sorted(self.root.glob("sys/class/power_supply/*"))
        names = [f"sys/class/power_supply/{folder.name}" for folder in supplies]
        mains = [name for name in names if self.read(f"{name}/type") in ("Mains", "USB")]
        battery = any(self.read(f"{name}/status") == "Discharging" for name in names)
        return battery and not any(self.read(f"{name}/online") == "1" for name in mains)
