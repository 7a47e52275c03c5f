"""Splits between CPU and GPU: parity with the CPU, memory against the plan, tuned settings against the defaults.

.venv/bin/python bench/offload.py [--size 9b] [--quant Q4_K_M] [--layers N] [--model FILE] [--ctx 8192]
                                  [--device CUDA0] [--rpc host:port] [--budget 180] [--no-tune] [--save]

Three parts, each against the CPU or the machine itself:

* parity: logits of a text and greedy tokens with no layer, half of the layers and all layers on the device; for scale,
  those of the CPU with kernels that round differently ("rounding"; random weights amplify it);
* memory: bytes in use on the device before and after loading, against `qwen35 plan` (nvidia-smi for NVIDIA GPUs, else
  the free memory that ggml reports), and prefill and decode speed at each split, interleaved;
* tune: the gain of `qwen35 tune` over the defaults, for each goal.

--save stores the figures in bench/results/offload-DEVICE.json, with machine and date.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from divergence import divergence

from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import ContextSpec, MemoryRequest
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.devices import Device, Offload, find_devices
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.planning import offload
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.placement import place
from qwen35_gguf.runtime.planning.plan import Machine, Plan
from qwen35_gguf.runtime.tuning import profiles
from qwen35_gguf.runtime.tuning.search import GOALS
from runtime import convert

TEXT = 256  # tokens whose logits are compared
GREEDY = 64
PREFILL, DECODE = 512, 32
WIDTHS = (9, 8, 7, 9, 8, 9, 9)
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Seen:
    """The result of one split."""

    logits: Any
    greedy: list[int]
    prefill: float
    decode: float
    used: int  # bytes of the device


def main() -> None:
    """Run the parts and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="9b")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--device", default="", help="by default the first GPU")
    parser.add_argument("--rpc", default="", help="an RPC server whose device is used instead")
    parser.add_argument("--budget", type=int, default=180, help="seconds of tuning for each goal")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-tune", action="store_true")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--logits", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.logits:
        np.save(options.logits, look(options.model, Offload(), None, options.ctx).logits)
        return
    servers = (options.rpc,) if options.rpc else ()
    found = offload.find((options.device,) if options.device else (), servers)
    if not found:
        there = ", ".join(device.name for device in find_devices())
        raise SystemExit(f"no GPU: this llama.cpp finds {there or 'nothing'}; build one with make runtime CUDA=...")
    device = found[-1] if options.rpc else found[0]
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or convert(Path(scratch), options.size, options.quant, options.layers)
        record = {"machine": machine(device), "date": today(), "model": model.name, "n_ctx": options.ctx}
        record["splits"] = splits(model, device, options.ctx, options.rounds)
        if not options.no_tune:
            record["tune"] = tuned(model, device, servers, options.budget)
    if options.save:
        path = RESULTS / f"offload-{record['machine']['device'].lower().replace(' ', '-')}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"saved as {path}")


def today() -> str:
    """Return the date."""
    return datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()


def machine(device: Device) -> dict[str, Any]:
    """Describe the hardware and the build that speed depends on."""
    name = device.name
    if nvidia(device):
        name = smi("--query-gpu=name,driver_version")[int(device.name[4:])]
    build = installed_runtime()
    return {
        "device": name,
        "processor": json.loads(profiles.hardware())[0],
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "patches": len(build.patches) if build else 0,
    }


# ---- splits ------------------------------------------------------------------------------------------------------


def splits(model: Path, device: Device, n_ctx: int, rounds: int) -> list[dict[str, Any]]:
    """Compare no, half and all layers on the device, and the placement that `qwen35 plan` chooses."""
    header = read_header(model)
    most = offload.most_layers(header)
    request = MemoryRequest(ContextSpec(n_ctx, n_outputs=TEXT))
    wanted = {"none": 0, "half": most // 2, "all": most}
    chosen = {label: offload.choose(header, count, [device], request, ram=0) for label, count in wanted.items()}
    boundless = Device(device.name, 1 << 45, device.kind)
    plans = {"all": place(header, Machine(1 << 45, (boundless,)), request)[0]}
    plan, short = place(header, Machine(available_bytes(), (device,)), request)
    if short == 0:
        plans["plan"] = plan
        chosen["plan"] = offload.of_plan(plan, [device])
    seen: dict[str, list[Seen]] = {label: [] for label in chosen}
    for turn in range(rounds):
        for label in list(chosen)[:: -1 if turn % 2 else 1]:
            seen[label].append(look(model, chosen[label], device, n_ctx))
    expected = seen["none"][0]
    other = rounding(model, n_ctx)
    rows: list[dict[str, Any]] = [{"split": "rounding", "kl": float(divergence(expected.logits, other).mean())}]
    same = float((expected.logits.argmax(-1) == other.argmax(-1)).mean())
    heads = ("KL", "same top", "greedy", "prefill", "decode", "MB used", "planned")
    print(f"{'split':<8} " + " ".join(f"{head:>{width}}" for head, width in zip(heads, WIDTHS, strict=True)))
    print(f"rounding {rows[0]['kl']:>9.1e} {same:>8.1%}")
    for label, many in seen.items():
        first = many[0]
        row = {
            "split": label,
            "placement": str(chosen[label]),
            "kl": float(divergence(expected.logits, first.logits).mean()),
            "same_top": float((expected.logits.argmax(-1) == first.logits.argmax(-1)).mean()),
            "greedy": common(expected.greedy, first.greedy),
            "prefill": statistics.median(one.prefill for one in many),
            "decode": statistics.median(one.decode for one in many),
            "used": max(one.used for one in many),
            "planned": planned(plans[label], device) if label in plans else 0,
        }
        ratio = f"{row['planned'] / row['used']:.3f}" if row["used"] and row["planned"] else ""
        print(
            f"{label:<8} {row['kl']:>9.1e} {row['same_top']:>8.1%} {row['greedy']:>4}/{GREEDY} {row['prefill']:>9,.1f} "
            f"{row['decode']:>8,.1f} {row['used'] / 1e6:>9,.0f} {row['planned'] / 1e6:>9,.0f} {ratio}",
            flush=True,
        )
        rows.append(row)
    return rows


def rounding(model: Path, n_ctx: int) -> Any:
    """Return the CPU's logits with other kernels, from a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "logits.npy")
        command = [sys.executable, __file__, "--model", str(model), "--ctx", str(n_ctx), "--logits", str(file)]
        subprocess.run(command, check=True, env=os.environ | {"QWEN35_CPU": "portable"}, stdout=subprocess.DEVNULL)
        return np.load(file)


def look(model: Path, chosen: Offload, device: Device | None, n_ctx: int) -> Seen:
    """Load a split, and take its logits, greedy tokens, speeds and memory."""
    before = in_use(device) if device else 0
    with (
        Model(model, ModelSpec(chosen)) as loaded,
        Context(loaded, ContextSpec(n_ctx, n_threads=default_threads(), n_outputs=TEXT)) as context,
    ):
        ids = (np.arange(PREFILL) * 37 % 1000 + 100).tolist()
        context.evaluate(ids[:TEXT], 0, outputs=TEXT)
        logits = context.last_logits(TEXT).copy()
        greedy = [int(logits[-1].argmax())]
        while len(greedy) < GREEDY:
            context.evaluate([greedy[-1]], TEXT + len(greedy) - 1, outputs=1)
            greedy.append(int(context.logits(-1).argmax()))
        used = in_use(device) - before if device else 0
        context.clear()
        start = time.perf_counter()
        context.evaluate(ids, 0, outputs=1)
        context.logits(-1)
        prefill = PREFILL / (time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(DECODE):
            context.evaluate([ids[i]], PREFILL + i, outputs=1)
            context.logits(-1)
        return Seen(logits, greedy, prefill, DECODE / (time.perf_counter() - start), used)


def planned(plan: Plan, device: Device) -> int:
    """Return the bytes that a plan uses on the device, without the reserve for the driver."""
    usage = next(usage for usage in plan.usage if usage.device == device.name)
    return usage.used - usage.parts.get("reserve", 0)


def common(expected: list[int], found: list[int]) -> int:
    """Count the tokens until the first that differs."""
    return next((i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b), len(expected))


# ---- the device --------------------------------------------------------------------------------------------------


def nvidia(device: Device) -> bool:
    """Whether nvidia-smi knows the device."""
    return device.name.startswith("CUDA") and shutil.which("nvidia-smi") is not None


def smi(query: str) -> list[str]:
    """Query nvidia-smi; one line per GPU."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()


def in_use(device: Device) -> int:
    """Return the bytes in use on the device."""
    if nvidia(device):
        return int(smi("--query-gpu=memory.used")[int(device.name[4:])]) << 20
    free = next((one.free for one in find_devices() if one.name == device.name), 0)
    return -free


# ---- tuning ------------------------------------------------------------------------------------------------------


def tuned(model: Path, device: Device, servers: tuple[str, ...], budget: int) -> list[dict[str, Any]]:
    """Run `qwen35 tune` for each goal; return its gains over the defaults."""
    rows = []
    where = ["--rpc", ",".join(servers)] if servers else ["--device", device.name]
    for goal in GOALS:
        command = [sys.executable, "-m", "qwen35_gguf.cli", "tune", str(model), *where, "--goal", goal]
        command += ["--budget", f"{budget}s", "--no-save", "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout)
        rows.append({key: found[key] for key in ("goal", "gain", "score", "settings", "trials")})
        print(
            f"{goal:<9} tuned is {found['gain']:.2f} times the defaults, {found['trials']} settings tried", flush=True
        )
    return rows


if __name__ == "__main__":
    main()
