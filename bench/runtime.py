"""Prefill and decode of a model with random weights on a stock and on a patched llama.cpp, in turns, with ratios.

.venv/bin/python bench/runtime.py --size 0.8b [--quant Q4_K_M] [--rounds 3] [--model FILE]

Each build has an environment of its own in .cache/bench-runtime; both are built by patches/build.py, with the same
options. Every measurement is a process of its own, which warms up first.
"""

from __future__ import annotations

import argparse
import json
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


def main() -> None:
    """Make environments and model, run the sides in turns, print a row for each test and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2", help="numbers, with commas")
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--worker", nargs=2, metavar=("MODEL", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker[0], int(options.worker[1]))))
        return
    pythons = {side: environment(side) for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or convert(Path(scratch), options.size, options.quant)
        print(f"{model.name}, tokens a second, median of {options.rounds}")
        print(f"{'':<10}{'threads':>8}{'stock':>10}{'patched':>10}{'ratio':>8}")
        for threads in map(int, options.threads.split(",")):
            found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for number in range(options.rounds):
                for side in reversed(SIDES) if number % 2 else SIDES:
                    found[side].append(in_environment(pythons[side], model, threads))
            for test in TESTS:
                stock, patched = (statistics.median(run[test] for run in found[side]) for side in SIDES)
                print(f"{test:<10}{threads:>8}{stock:>10.1f}{patched:>10.1f}{patched / stock:>8.2f}")


def environment(side: str) -> Path:
    """Return the Python of an environment with that build, made if absent."""
    folder = ROOT / ".cache" / "bench-runtime" / side
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    build = [sys.executable, str(ROOT / "patches" / "build.py"), *SIDES[side], "--python", str(python)]
    subprocess.run(build, check=True)
    return python


def convert(folder: Path, size: str, quant: str) -> Path:
    """Make a checkpoint with random weights and convert its text model."""
    make = [sys.executable, str(ROOT / "examples" / "make_checkpoint.py"), str(folder / "checkpoint"), "--size", size]
    subprocess.run([*make, "--no-vision"], check=True, stdout=subprocess.DEVNULL)
    script = str(ROOT / "convert" / "hf_to_gguf.py")
    command = [sys.executable, script, str(folder / "checkpoint"), "-q", quant, "-o", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return next(folder.glob("*.gguf"))


def in_environment(python: Path, model: Path, threads: int) -> dict[str, float]:
    """Measure in a process of that environment."""
    command = [str(python), __file__, "--worker", str(model), str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(model: str, threads: int) -> dict[str, float]:
    """Tokens a second of each test, the better of two runs."""
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), params)
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = 4096, 2048, 512
    options.n_threads = options.n_threads_batch = threads
    ctx = llama_cpp.llama_init_from_model(loaded, options)
    memory = llama_cpp.llama_get_memory(ctx)
    result = {}
    for test, (prompt, generated) in TESTS.items():
        speeds = []
        for _ in range(2):
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
    return result


def decode(llama_cpp: Any, ctx: Any, count: int, start: int) -> None:
    """Evaluate `count` tokens from position `start`, with the logits of the last one."""
    batch = llama_cpp.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for i in range(count):
        batch.token[i] = 100 + (37 * (start + i)) % 1000
        batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = start + i, 1, 0, i == count - 1
    if llama_cpp.llama_decode(ctx, batch):
        raise SystemExit("llama_decode failed")
    llama_cpp.llama_batch_free(batch)


if __name__ == "__main__":
    main()
