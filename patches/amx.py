"""Options without which a stock llama.cpp crashes at its first matmul: AMX with a compiler that miscompiles it.

`_tile_loadconfig` in the headers of GCC before 13 lets the compiler remove most of the configuration. Patch 0008 works
around that; a build without it must not use AMX.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FIXED = 13  # the first GCC with the correct intrinsic
WITHOUT = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"


def options_without_amx() -> dict[str, str]:
    """Return definitions for CMake; none if the processor has no AMX or the compiler is not affected."""
    if not has_amx() or gcc_version() >= FIXED:
        return {}
    return {"CMAKE_C_FLAGS": WITHOUT, "CMAKE_CXX_FLAGS": WITHOUT}


def has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor has AMX tiles."""
    try:
        return "amx_tile" in cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False


def gcc_version() -> int:
    """Return the major version of GCC if CMake uses GCC; else a number above all versions."""
    compiler = os.environ.get("CXX", "c++")
    try:
        named = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
        version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=False).stdout
        return int(version.strip().split(".")[0]) if "clang" not in named.lower() else 1 << 30
    except (OSError, ValueError):
        return 1 << 30
