"""Everything that was written for GPUs, measured on one: parity, memory against the plan, speed, kernels, tuning.

.venv/bin/python bench/gpu/gpu.py [--files FOLDER] [--sizes 0.8B,9B] [--device CUDA0] [--rpc HOST:PORT]
                                  [--stages parity,...] [--out FOLDER]

Models that FOLDER lacks are made there (bench/gpu/shapes.py; the small one is converted). Every stage is a process of
its own with a limit of time; its figures are in OUT/STAGE.json as soon as they are known, and what it prints is
repeated at the end. What matters most comes first, since a run may be stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import experts
import memory
import parity
import profile_kernels
import shapes
import speed
from stage import Results, Setup, smi

from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.llama.install import installed_runtime

ROOT = Path(__file__).resolve().parents[2]
Stage = Callable[[Setup, Results], None]


def doctor(setup: Setup, results: Results) -> None:
    """Print what `qwen35 doctor` reports, and the card."""
    done = subprocess.run([sys.executable, "-m", "qwen35_gguf.cli", "doctor"], capture_output=True, text=True)
    results.add(code=done.returncode, doctor=done.stdout + done.stderr[-500:])
    build = installed_runtime()
    results.add(
        card=smi("--query-gpu=name,driver_version,memory.total")[0] if setup.find()[0].name[:4] == "CUDA" else "none",
        cores=os.cpu_count(),
        system=platform.platform(),
        patches=len(build.patches) if build else 0,
        date=datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
    )


# Name, what it runs, seconds.
STAGES: dict[str, tuple[Stage, int]] = {
    "doctor": (doctor, 30),
    "splits": (parity.splits, 100),
    "drafts": (parity.drafts, 60),
    "vision": (parity.vision, 60),
    "memory": (memory.memory, 90),
    "speed": (speed.speed, 80),
    "profile": (profile_kernels.profile, 45),
    "experts": (experts.experts, 300),
}


def main() -> None:
    """Run the stages, and print what they printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, default=ROOT / ".cache" / "bench-gpu")
    parser.add_argument("--sizes", default="0.8B,9B", help="the main one last")
    parser.add_argument("--device", action="append", default=[], help="by default the first GPU")
    parser.add_argument("--rpc", action="append", default=[], help="an RPC server whose device is used instead")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "bench-gpu" / "results")
    parser.add_argument("--expert-layers", type=int, default=16, help="of the 35B-A3B, which has 40")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    setup = Setup.of(options)
    if options.stage:
        STAGES[options.stage][0](setup, Results(options.out / f"{options.stage}.json"))
        return
    names = options.stages.split(",")
    make_files(setup, options.expert_layers if "experts" in names else 0)
    texts = {name: run(name, options) for name in names}
    print("\n".join(f"==== {name}\n{text}" for name, text in texts.items()))


def make_files(setup: Setup, expert_layers: int) -> None:
    """Make the models that are missing, and complete those of which there is only a header."""
    setup.files.mkdir(parents=True, exist_ok=True)
    present = " ".join(path.name.lower() for path in setup.files.glob("*.gguf"))
    if "tiny-" not in present:
        hf_to_gguf.convert(ROOT / "examples" / "tiny-qwen3.5", "Q4_K_M", setup.files)
    for size in (*setup.sizes, *(["35B-A3B"] if expert_layers else [])):
        if f"-{size.lower()}-" not in present:
            shapes.write_headers(size, "Q4_K_M", setup.files, expert_layers if size == "35B-A3B" else None)
        for path in (setup.model(size), setup.mmproj(size)):
            if shapes.is_header(path):
                begin = time.perf_counter()
                shapes.fill(path)
                gigabytes = path.stat().st_size / 1e9
                print(f"{path.name}: {gigabytes:.1f} GB in {time.perf_counter() - begin:.1f} s", flush=True)


def run(name: str, options: argparse.Namespace) -> str:
    """Run a stage in a process of its own; return what it printed, or why there is nothing."""
    command = [sys.executable, __file__, "--stage", name, "--files", str(options.files), "--sizes", options.sizes]
    command += ["--out", str(options.out)]
    for option in ("device", "rpc"):
        command += [word for value in getattr(options, option) for word in (f"--{option}", value)]
    begin, limit = time.perf_counter(), STAGES[name][1]
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            ended = f"code {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            ended = "its time"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too
    text = log.read_text()
    ending = f"({name}: {time.perf_counter() - begin:.1f} s, ended with {ended})"
    print(ending, flush=True)
    return (text if len(text) < 9000 else text[:3000] + "\n...\n" + text[-6000:]) + ending


if __name__ == "__main__":
    main()
