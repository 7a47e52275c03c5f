"""What the installed llama.cpp is: stock or patched, from which sources, and for which processors it was compiled.

It is tried in a process of its own: one that was compiled for another processor ends by an illegal instruction.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from qwen35_gguf.llama_package import DISTRIBUTIONS, VARIABLE, Installed, installed_runtime

TRIAL = (sys.executable, "-m", "qwen35_gguf.doctor.engine_trial")
SECONDS = 60.0
PACKAGE = "qwen35-gguf"


@dataclass(frozen=True)
class Engine:
    """An installed llama.cpp, or none.

    Attributes:
        installed: where it is, and its patches; None: there is none.
        failure: why it cannot be used on this machine; empty if it can.
        illegal: it ends by an instruction that the processor does not have.
        features: instruction sets that it was compiled for, in the names of ggml.
        devices: records of the devices that it finds.

    """

    installed: Installed | None
    failure: str = ""
    illegal: bool = False
    features: frozenset[str] = frozenset()
    devices: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)


def find_engine(trial: Sequence[str] = TRIAL) -> Engine:
    """Find the installed llama.cpp, and try it by a command that prints what it found as JSON."""
    installed = installed_runtime()
    return Engine(None) if installed is None else try_engine(installed, trial)


def try_engine(installed: Installed, trial: Sequence[str] = TRIAL) -> Engine:
    """Run a llama.cpp in a process of its own, and describe it."""
    environment = dict(os.environ)
    paths = (str(installed.folder.parent), environment.get("PYTHONPATH", ""))
    environment[VARIABLE] = installed.package
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        done = subprocess.run(
            trial, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Engine(installed, f"it does not answer ({type(error).__name__})")
    if done.returncode:
        return Engine(installed, *_death(done.returncode, done.stderr))
    try:
        record = json.loads(done.stdout.splitlines()[-1])
        features, devices = frozenset(record["features"]), tuple(record["devices"])
    except (ValueError, LookupError, TypeError):
        return Engine(installed, "what it answers cannot be read")
    return Engine(installed, features=features, devices=devices)


def _death(code: int, stderr: str) -> tuple[str, bool]:
    """Describe how a process ended, and whether by an illegal instruction (on Windows 0xC000001D)."""
    if code in (-int(signal.SIGILL), 0xC000001D, 0xC000001D - (1 << 32)):
        return "it ends by an illegal instruction", True
    if code < 0:
        return f"it ends by signal {signal.Signals(-code).name}", False
    lines = [line for line in stderr.splitlines() if line.strip()]
    return (lines[-1].strip()[:300] if lines else f"it ends with exit code {code}"), False


# ---- instruction sets --------------------------------------------------------------------------------------------

# The names of ggml, and of the Linux kernel; any one of several is enough.
KERNEL_NAMES: Mapping[str, tuple[str, ...]] = {
    "SSE3": ("pni", "sse3"),
    "SSSE3": ("ssse3",),
    "AVX": ("avx",),
    "AVX_VNNI": ("avx_vnni",),
    "AVX2": ("avx2",),
    "F16C": ("f16c",),
    "FMA": ("fma",),
    "BMI2": ("bmi2",),
    "AVX512": ("avx512f",),
    "AVX512_VBMI": ("avx512vbmi",),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
    "AMX_INT8": ("amx_int8",),
    "NEON": ("asimd",),
    "ARM_FMA": ("asimd",),
    "FP16_VA": ("asimdhp",),
    "DOTPROD": ("asimddp",),
    "MATMUL_INT8": ("i8mm",),
    "SVE": ("sve",),
    "SME": ("sme",),
}
# Without these, decode and prefill of a stock build are several times slower.
COSTLY = ("AVX2", "FMA", "F16C", "AVX512", "DOTPROD")


def missing(features: Iterable[str], processor: frozenset[str]) -> tuple[str, ...]:
    """Name what an engine was compiled for and the processor does not have; none where that is not known."""
    if not processor:
        return ()
    return tuple(name for name in KERNEL_NAMES if name in set(features) and processor.isdisjoint(KERNEL_NAMES[name]))


def unused(features: Iterable[str], processor: frozenset[str]) -> tuple[str, ...]:
    """Name what the processor has that counts, and the engine was not compiled for."""
    return tuple(name for name in COSTLY if name not in set(features) and not processor.isdisjoint(KERNEL_NAMES[name]))


# ---- what this package is made for -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """The engine that this package is made for.

    Attributes:
        clone: of the repository, from which the package runs; None where it was installed as a wheel.
        versions: by the name of the distribution.
        patches: names of those of the clone.
        series: identifies the clone's patches and kernels, as a build records it.

    """

    clone: Path | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    patches: tuple[str, ...] = ()
    series: str = ""

    @classmethod
    def here(cls) -> Expected:
        """Read what the extras of this package, or its clone, ask for."""
        clone = clone_folder()
        if clone is None:
            return cls(versions=pinned(requirements()))
        # Its pyproject.toml counts: what an editable install recorded may be older.
        versions = pinned([(clone / "pyproject.toml").read_text(encoding="utf-8")])
        patches = tuple(sorted(file.stem for file in (clone / "patches").glob("[0-9]*.patch")))
        return cls(clone, versions, patches, series_of(clone))


def clone_folder() -> Path | None:
    """Return the clone that this package runs from; None where it was installed as a wheel."""
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "patches" / "build.py").is_file() else None


def series_of(clone: Path) -> str:
    """Return what identifies a clone's patches and kernels; empty if it cannot be computed."""
    command = [sys.executable, str(clone / "patches" / "build.py"), "--series"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.fullmatch(r"[0-9a-f]{8}", done.stdout.strip())
    return found[0] if found else ""


def requirements() -> list[str]:
    """Return the requirements of this package with those of its extras; none where it was not installed."""
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []


def pinned(texts: Iterable[str]) -> dict[str, str]:
    """Return the versions of engines that requirements name."""
    found = {}
    for text in texts:
        for distribution in DISTRIBUTIONS.values():
            pattern = rf"{distribution.replace('-', '[-_]')}\s*==\s*([\w.]+)"
            if version := re.search(pattern, text):
                found[distribution] = version[1]
    return found
