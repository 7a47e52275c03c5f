"""Prefill and decode with random weights on stock llama.cpp and on the patched one, interleaved, with ratios.

.venv/bin/python bench/runtime.py --size 0.8b [--quant Q4_K_M] [--rounds 3] [--layers N] [--model FILE] [--cpu avx2]

Stock llama.cpp is measured at two settings: its default, which repacks weights at load, and `use_extra_bufts=False`,
which does not repack and uses its tiled kernels. The default favours decode, the other one prefill; which is better
depends on the row and on the processor. The last column, the ratio to quote, is against the better of the two in that
row.

Each build has an environment of its own in .cache/bench-runtime; both are built by patches/build.py, with the same
options. Every measurement is a process of its own, which warms up first. --cpu builds both for a laptop without
AVX-512. Prefill (pp) and decode (tg) are in tokens/s. "batch of N" is the time of a batch of N tokens, all with logits,
divided by that of one token ("rollback": in a context that can roll back three tokens); load is in seconds, memory is
the peak in MB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILDS: dict[str, list[str]] = {"stock": ["--stock"], "patched": []}
TESTS = {"pp512": (512, 0), "pp2048": (2048, 0), "tg64": (0, 64)}
BATCHES = (2, 3, 4, 5)
LESS_IS_BETTER = ("batch", "load", "memory")
AVX2 = "-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
CMAKE_ARGS = {"native": "", "avx2": AVX2, "avxvnni": f"{AVX2} -DGGML_AVX_VNNI=ON"}


@dataclass(frozen=True)
class Side:
    """A column of the table: a build of llama.cpp and whether it may repack weights at load (`use_extra_bufts`)."""

    build: str
    repack: bool


STOCK = {"default": Side("stock", repack=True), "no repack": Side("stock", repack=False)}
SIDES = {**STOCK, "patched": Side("patched", repack=True)}


def main() -> None:
    """Make environments and model, measure the sides in turns, print a row for each test and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--experts", type=int, help="fewer experts than the size has, and no MTP head")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2", help="numbers, separated by commas")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--cpu", default="native", choices=CMAKE_ARGS, help="what both builds are compiled for")
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "THREADS", "REPACK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, threads, repack = options.child
        print(json.dumps(measure(path, int(threads), repack=repack == "True")))
        return
    pythons = {build: environment(build, options.cpu) for build in BUILDS}
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or convert(Path(scratch), options.size, options.quant, options.layers, options.experts)
        print(f"{model.name}, built for {options.cpu}, median of {options.rounds}; stock at two settings")
        print(f"{'':<20}{'threads':>8}" + "".join(f"{name:>11}" for name in SIDES) + f"{'ratio':>8}{'to better':>11}")
        for threads in map(int, options.threads.split(",")):
            found: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
            for number in range(options.rounds):
                for name in rotated(SIDES, number):
                    side = SIDES[name]
                    found[name].append(in_environment(pythons[side.build], model, threads, side.repack, options.cpu))
            for test in found["patched"][0]:
                row = {name: statistics.median(run[test] for run in runs) for name, runs in found.items()}
                values = "".join(f"{value:>11.{digits(row['default'])}f}" for value in row.values())
                to_default, to_better = ratios(test, row)
                print(f"{test:<20}{threads:>8}{values}{to_default:>8.2f}{to_better:>11.2f}", flush=True)


def rotated(sides: Iterable[str], number: int) -> list[str]:
    """Return the sides in an order that differs from round to round, so that none is always first."""
    names = list(sides)
    shift = number % len(names)
    return names[shift:] + names[:shift]


def ratios(test: str, row: dict[str, float]) -> tuple[float, float]:
    """Return how many times better patched is in a row: than stock's default, and than the better stock setting."""
    less = any(name in test for name in LESS_IS_BETTER)
    found = [row[name] / row["patched"] if less else row["patched"] / row[name] for name in STOCK]
    return found[0], min(found)


def digits(value: float) -> int:
    """Decimals worth printing."""
    return 2 if value < 10 else 1


def environment(build: str, cpu: str) -> Path:
    """Return the Python of an environment with that build, made if absent."""
    folder = ROOT / ".cache" / "bench-runtime" / (build if cpu == "native" else f"{build}-{cpu}")
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [sys.executable, str(ROOT / "patches" / "build.py"), *BUILDS[build], "--python", str(python)]
    cmake_args = f"{os.environ.get('CMAKE_ARGS', '')} {CMAKE_ARGS[cpu]}".strip()
    subprocess.run(command, check=True, env=os.environ | {"CMAKE_ARGS": cmake_args})
    return python


def convert(folder: Path, size: str, quant: str, layers: int | None = None, experts: int | None = None) -> Path:
    """Make a checkpoint with random weights and convert its text model."""
    return convert_checkpoint(make_checkpoint(folder, size, layers, experts), quant)


def make_checkpoint(folder: Path, size: str, layers: int | None = None, experts: int | None = None) -> Path:
    """Make a checkpoint with random weights in that folder."""
    checkpoint = folder / "checkpoint"
    make = [sys.executable, str(ROOT / "examples" / "make_checkpoint.py"), str(checkpoint), "--size", size]
    make += ["--layers", str(layers)] if layers else []
    make += ["--experts", str(experts), "--no-mtp"] if experts else []
    subprocess.run([*make, "--no-vision"], check=True, stdout=subprocess.DEVNULL)
    return checkpoint


def convert_checkpoint(checkpoint: Path, quant: str, *arguments: str) -> Path:
    """Convert its text model to the only GGUF beside it, with further arguments of `qwen35 convert`."""
    script = str(ROOT / "convert" / "hf_to_gguf.py")
    command = [sys.executable, script, str(checkpoint), "-q", quant, "-o", str(checkpoint.parent), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return next(checkpoint.parent.glob("*.gguf"))


def in_environment(
    python: Path, model: Path, threads: int, repack: bool, cpu: str, script: str = __file__
) -> dict[str, Any]:
    """Measure in a process of that environment, which runs a benchmark's `--child`."""
    command = [str(python), script, "--child", str(model), str(threads), str(repack)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=child_environment(cpu)
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def child_environment(cpu: str) -> dict[str, str]:
    """Limit our kernels, which are chosen at run time, to the instruction set that both builds are compiled for."""
    return os.environ | ({} if cpu == "native" else {"QWEN35_CPU": cpu})


def measure(model: str, threads: int, *, repack: bool) -> dict[str, float]:
    """Measure one build: speeds, relative times of small batches, load time, memory."""
    import llama_cpp

    result = {}
    start = time.perf_counter()
    parameters = llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = repack
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), parameters)
    loading = time.perf_counter() - start
    ctx = context(llama_cpp, loaded, threads, rollback=0)
    memory = llama_cpp.llama_get_memory(ctx)
    for test, (prompt, generated) in TESTS.items():
        speeds = []
        for _ in range(2 if prompt else 5):  # decode is short, and other processes use the memory bus
            llama_cpp.llama_memory_clear(memory, True)
            decode(llama_cpp, ctx, 8, 0)
            start = time.perf_counter()
            if prompt:
                decode(llama_cpp, ctx, prompt, 8)
            for i in range(generated):
                decode(llama_cpp, ctx, 1, 8 + i)
            llama_cpp.llama_synchronize(ctx)
            speeds.append((prompt or generated) / (time.perf_counter() - start))
        result[test] = max(speeds)
    for number, ratio in batch_costs(llama_cpp, ctx).items():
        result[f"batch of {number}"] = ratio
    llama_cpp.llama_free(ctx)
    ctx = context(llama_cpp, loaded, threads, rollback=3)
    for number, ratio in batch_costs(llama_cpp, ctx).items():
        result[f"batch of {number}, rollback"] = ratio
    result["load"] = loading
    result["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return result


def context(llama_cpp: Any, model: Any, threads: int, rollback: int) -> Any:
    """Make a context that can roll back `rollback` tokens."""
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch, options.n_rs_seq = 4096, 2048, 512, rollback
    options.n_threads = options.n_threads_batch = threads
    return llama_cpp.llama_init_from_model(model, options)


def batch_costs(llama_cpp: Any, ctx: Any) -> dict[int, float]:
    """Time small batches after 64 tokens, in turns; return the medians divided by that of one token."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
    decode(llama_cpp, ctx, 64, 0)
    position = 64
    seconds: dict[int, list[float]] = {number: [] for number in (1, *BATCHES)}
    for _ in range(16):
        for number in seconds:
            start = time.perf_counter()
            decode(llama_cpp, ctx, number, position, every=True)
            llama_cpp.llama_synchronize(ctx)
            seconds[number].append(time.perf_counter() - start)
            position += number
    one = statistics.median(seconds[1])
    return {number: statistics.median(seconds[number]) / one for number in BATCHES}


def decode(llama_cpp: Any, ctx: Any, count: int, start: int, *, every: bool = False) -> None:
    """Evaluate `count` tokens from position `start`, with the logits of the last one or of every one."""
    batch = llama_cpp.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for i in range(count):
        batch.token[i] = 100 + (37 * (start + i)) % 1000
        batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = start + i, 1, 0
        batch.logits[i] = every or i == count - 1
    if llama_cpp.llama_decode(ctx, batch):
        raise SystemExit("llama_decode failed")
    llama_cpp.llama_batch_free(batch)


if __name__ == "__main__":
    main()
