"""What the stages have in common: the files, the device, memory in use, and results that survive a stop."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.devices import Device, Offload, find_devices
from qwen35_gguf.runtime.planning import offload

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MIB = 1 << 20
ALL = offload.ALL


@dataclass
class Results:
    """Figures of a stage: a list of rows, written to a file whenever one is added, and printed as a line."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        """Keep and print a row."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.rows, indent=1, default=str) + "\n")
        print("  ".join(f"{name} {shown(value)}" for name, value in row.items()), flush=True)


def shown(value: Any) -> str:
    """Write a value for people, at four digits."""
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{name}={shown(one)}" for name, one in value.items())
    return str(value)


@dataclass(frozen=True)
class Setup:
    """Where a stage finds what it measures.

    Attributes:
        files: the folder with the models.
        devices: names of GPUs; empty: all.
        rpc: RPC servers instead.
        sizes: prefixes of the models that are measured, the main one last.
        threads: of the CPU.

    """

    files: Path
    devices: tuple[str, ...] = ()
    rpc: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ("0.8B", "9B")
    threads: int = 0

    @classmethod
    def of(cls, options: argparse.Namespace) -> Setup:
        """Take the options of the command line."""
        devices, rpc = tuple(options.device), tuple(options.rpc)
        return cls(options.files, devices, rpc, tuple(options.sizes.split(",")), default_threads())

    def model(self, size: str) -> Path:
        """Return the text model of a size, or of "tiny"."""
        return next(path for path in sorted(self.files.glob("*.gguf")) if _is(path, size) and "mmproj" not in path.name)

    def mmproj(self, size: str) -> Path:
        """Return its vision encoder."""
        return next(path for path in sorted(self.files.glob("mmproj-*.gguf")) if _is(path, size))

    def find(self) -> list[Device]:
        """Find the devices, with the memory that is free now."""
        return offload.find(self.devices, self.rpc)

    def device(self) -> Device:
        """Return the first one."""
        found = self.find()
        if not found:
            there = ", ".join(device.name for device in find_devices())
            raise SystemExit(f"no GPU: this llama.cpp finds {there or 'nothing'}; build one with make runtime CUDA=...")
        return found[0]


def _is(path: Path, size: str) -> bool:
    return f"{size.lower()}-" in path.name.lower()


def whole(device: Device) -> Offload:
    """All layers on a device."""
    return Offload((device,), ALL)


# ---- memory ------------------------------------------------------------------------------------------------------


def smi(query: str) -> list[str]:
    """Query nvidia-smi; one line per GPU."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()


def in_use() -> int:
    """Return the bytes in use on the first GPU as nvidia-smi reports them, of all processes; 0 without nvidia-smi."""
    return int(smi("--query-gpu=memory.used")[0]) * MIB if shutil.which("nvidia-smi") else 0


# ---- calls -------------------------------------------------------------------------------------------------------


def ids(count: int, start: int = 0) -> list[int]:
    """Return token ids that every vocabulary has, none twice in a row."""
    return ((np.arange(start, start + count) * 37) % 1000 + 100).tolist()


def prefill(context: Context, count: int, pos: int = 0, *, outputs: int = 1, seq: int = 0) -> float:
    """Evaluate tokens in calls of `n_batch`; return the seconds until the last one is computed."""
    begin = time.perf_counter()
    for at in range(0, count, context.n_batch):
        part = ids(min(context.n_batch, count - at), pos + at)
        last = at + len(part) == count
        context.evaluate(part, pos + at, seq=seq, outputs=outputs if last else 0)
    if outputs:
        context.logits(-1)
    context.wait()
    return time.perf_counter() - begin


def spec(n_ctx: int, threads: int, **fields: Any) -> ContextSpec:
    """Describe a context."""
    return ContextSpec(n_ctx, n_threads=threads, **fields)
