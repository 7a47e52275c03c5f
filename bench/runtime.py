"""Prefill and decode of a model with random weights on a stock and on a patched llama.cpp, in turns, with ratios.

.venv/bin/python bench/runtime.py --size 0.8b [--quant Q4_K_M] [--rounds 3] [--layers N] [--model FILE] [--cpu avx2]

Each build has an environment of its own in .cache/bench-runtime; both are built by patches/build.py, with the same
options. Every measurement is a process of its own, which warms up first. --cpu builds both for a laptop without
AVX-512. Prefill and decode are tokens a second; "at once" is the time of so many tokens, all with logits, over that of
one ("rollback": in a context that can take back three of them); loading is in seconds, memory the peak in MB.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIDES = {"stock": ["--stock"], "patched": []}
TESTS = {"pp512": (512, 0), "pp2048": (2048, 0), "tg64": (0, 64)}
AT_ONCE = (2, 3, 4, 5)
LESS_IS_BETTER = ("at once", "load", "memory")
AVX2 = "-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
CMAKE_ARGS = {"native": "", "avx2": AVX2, "avxvnni": f"{AVX2} -DGGML_AVX_VNNI=ON"}


def main() -> None:
    """Make environments and model, run the sides in turns, print a row for each test and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2", help="numbers, with commas")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--cpu", default="native", choices=CMAKE_ARGS, help="what both sides are built for")
    parser.add_argument("--worker", nargs=2, metavar=("MODEL", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker[0], int(options.worker[1]))))
        return
    pythons = {side: environment(side, options.cpu) for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or convert(Path(scratch), options.size, options.quant, options.layers)
        print(f"{model.name}, built for {options.cpu}, median of {options.rounds}")
        print(f"{'':<20}{'threads':>8}{'stock':>10}{'patched':>10}{'ratio':>8}")
        for threads in map(int, options.threads.split(",")):
            found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for number in range(options.rounds):
                for side in reversed(SIDES) if number % 2 else SIDES:
                    found[side].append(in_environment(pythons[side], model, threads, options.cpu))
            for test in found["stock"][0]:
                stock, patched = (statistics.median(run[test] for run in found[side]) for side in SIDES)
                ratio = stock / patched if any(name in test for name in LESS_IS_BETTER) else patched / stock
                print(f"{test:<20}{threads:>8}{stock:>10.{digits(stock)}f}{patched:>10.{digits(stock)}f}{ratio:>8.2f}")


def digits(value: float) -> int:
    """Decimals worth printing."""
    return 2 if value < 10 else 1


def environment(side: str, cpu: str) -> Path:
    """Return the Python of an environment with that build, made if absent."""
    folder = ROOT / ".cache" / "bench-runtime" / (side if cpu == "native" else f"{side}-{cpu}")
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    build = [sys.executable, str(ROOT / "patches" / "build.py"), *SIDES[side], "--python", str(python)]
    cmake_args = f"{os.environ.get('CMAKE_ARGS', '')} {CMAKE_ARGS[cpu]}".strip()
    subprocess.run(build, check=True, env=os.environ | {"CMAKE_ARGS": cmake_args})
    return python


def convert(folder: Path, size: str, quant: str, layers: int | None = None) -> Path:
    """Make a checkpoint with random weights and convert its text model."""
    make = [sys.executable, str(ROOT / "examples" / "make_checkpoint.py"), str(folder / "checkpoint"), "--size", size]
    make += ["--layers", str(layers)] if layers else []
    subprocess.run([*make, "--no-vision"], check=True, stdout=subprocess.DEVNULL)
    script = str(ROOT / "convert" / "hf_to_gguf.py")
    command = [sys.executable, script, str(folder / "checkpoint"), "-q", quant, "-o", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return next(folder.glob("*.gguf"))


def in_environment(python: Path, model: Path, threads: int, cpu: str) -> dict[str, float]:
    """Measure in a process of that environment."""
    command = [str(python), __file__, "--worker", str(model), str(threads)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=worker_environment(cpu)
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def worker_environment(cpu: str) -> dict[str, str]:
    """Hold our kernels, which are chosen at run time, to what both sides are built for."""
    return os.environ | ({} if cpu == "native" else {"QWEN35_CPU": cpu})


def measure(model: str, threads: int) -> dict[str, float]:
    """Take the figures of one build: speeds, relative times of a few tokens at once, loading, memory."""
    import llama_cpp

    result = {}
    start = time.perf_counter()
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
    loading = time.perf_counter() - start
    ctx = context(llama_cpp, loaded, threads, rollback=0)
    memory = llama_cpp.llama_get_memory(ctx)
    for test, (prompt, generated) in TESTS.items():
        speeds = []
        for _ in range(2 if prompt else 5):  # decoding is quickly measured, and memory is shared with the neighbours
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
    for number, ratio in at_once(llama_cpp, ctx).items():
        result[f"{number} at once"] = ratio
    llama_cpp.llama_free(ctx)
    ctx = context(llama_cpp, loaded, threads, rollback=3)
    for number, ratio in at_once(llama_cpp, ctx).items():
        result[f"{number} at once, rollback"] = ratio
    result["load"] = loading
    result["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return result


def context(llama_cpp: Any, model: Any, threads: int, rollback: int) -> Any:
    """Make a context that can take back `rollback` tokens."""
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch, options.n_rs_seq = 4096, 2048, 512, rollback
    options.n_threads = options.n_threads_batch = threads
    return llama_cpp.llama_init_from_model(model, options)


def at_once(llama_cpp: Any, ctx: Any) -> dict[int, float]:
    """Time batches of a few tokens behind 64 others, in turns; return the medians over that of one token."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
    decode(llama_cpp, ctx, 64, 0)
    position = 64
    seconds: dict[int, list[float]] = {number: [] for number in (1, *AT_ONCE)}
    for _ in range(16):
        for number in seconds:
            start = time.perf_counter()
            decode(llama_cpp, ctx, number, position, every=True)
            llama_cpp.llama_synchronize(ctx)
            seconds[number].append(time.perf_counter() - start)
            position += number
    one = statistics.median(seconds[1])
    return {number: statistics.median(seconds[number]) / one for number in AT_ONCE}


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
