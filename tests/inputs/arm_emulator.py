"""Programs for 64-bit ARM on this machine: cross-compiled, and run by qemu."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from oracles.paths import ROOT

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"

# The `pytestmark` of modules whose tests compile and emulate.
NEEDED = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
        reason=f"needs {COMPILER} and {EMULATOR}: apt-get install g++-aarch64-linux-gnu qemu-user",
    ),
]


def compile_for_arm(output: Path, sources: Sequence[Path], flags: Sequence[str]) -> Path:
    """Compile a program, or with the flag -c an object; return `output`."""
    subprocess.run([COMPILER, "-std=c++17", "-DSIMD_ARM64", *flags, *map(str, sources), "-o", str(output)], check=True)
    return output


def compile_with_kernels(folder: str, program: Path, scratch: Path) -> Path:
    """Compile a program with the kernels of a folder of ggml_ops, of NEON and portable ones; return what was made."""
    kernels = ROOT / "ggml_ops" / folder
    names = ["target_neon.cpp", "target_portable.cpp", "dispatch.cpp", "problem.cpp", "../simd/cpu.cpp"]
    sources = [program, *(kernels / name for name in names if (kernels / name).exists())]
    return compile_for_arm(scratch / program.stem, sources, ["-O3", "-ffp-contract=off", "-static", f"-I{kernels}"])


def emulate(program: Path, inputs: bytes, cpu: str = "") -> bytes:
    """Run a static program; return what it writes for `inputs`."""
    options = ["-cpu", cpu] if cpu else []
    return subprocess.run([EMULATOR, *options, str(program)], input=inputs, capture_output=True, check=True).stdout
