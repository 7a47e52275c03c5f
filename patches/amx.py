"""Options without which a stock llama.cpp ends at its first product: AMX, and a compiler that mistakes its intrinsics.

`_tile_loadconfig` in the headers of GCC before 13 lets the compiler leave out most of the configuration. Patch 0008
mends that; a build without it has to do without AMX.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MENDED = 13  # the first GCC with the right intrinsic
WITHOUT = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"


def options_without_amx() -> dict[str, str]:
    """Return definitions for CMake; none where the processor has no AMX, or the compiler is another."""
    if not has_amx() or gcc_version() >= MENDED:
        return {}
    return {"CMAKE_C_FLAGS": WITHOUT, "CMAKE_CXX_FLAGS": WITHOUT}


def has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether the processor has tiles."""
    try:
        return "amx_tile" in cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False


def gcc_version() -> int:
    """Return the major version of GCC, if that is what CMake takes; else a number above all."""
    compiler = os.environ.get("CXX", "c++")
    try:
        named = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
        version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=False).stdout
        return int(version.strip().split(".")[0]) if "clang" not in named.lower() else 1 << 30
    except (OSError, ValueError):
        return 1 << 30
