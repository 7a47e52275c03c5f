"""How long a call of N tokens takes: N tokens of one sequence, and one token of each of N sequences.

.venv/bin/python bench/matmul/batch.py --size 0.8b [--quant Q4_K_M] [--layers N] [--experts N] [--model FILE]
    [--threads 2] [--rounds 3] [--cpu avx2]

Stock llama.cpp at its default and without repacking, and the patched one, as in bench/runtime.py: each measurement is a
process of its own, and they take turns. All N tokens have logits. "x one" is the time in times of one token of the same
side; "tokens/s" is N divided by the time. Ratios are to stock's default and to the better of its two settings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime import BUILDS, CMAKE_ARGS, SIDES, convert, environment, in_environment, rotated

NUMBERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 48, 64)
KINDS = ("tokens", "sequences")
PROMPT = 32
REPEATS = 8


def main() -> None:
    """Make environments and model, measure the sides in turns, print a row for each number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--experts", type=int, help="fewer experts than the size has, and no MTP head")
    parser.add_argument("--quant", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, help="measure with this file instead of making one")
    parser.add_argument("--cpu", default="native", choices=CMAKE_ARGS, help="what both builds are compiled for")
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "THREADS", "REPACK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, threads, repack = options.child
        print(json.dumps(measure(path, int(threads), repack=repack == "True")))
        return
    pythons = {build: environment(build, options.cpu) for build in BUILDS}
    found: dict[str, list[dict[str, list[float]]]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        made = (options.size, options.quant, options.layers, options.experts)
        model = options.model or convert(Path(scratch), *made)
        for number in range(options.rounds):
            for name in rotated(SIDES, number):
                side = SIDES[name]
                python = pythons[side.build]
                found[name].append(in_environment(python, model, options.threads, side.repack, options.cpu, __file__))
    print(f"{model.name}, built for {options.cpu}, {options.threads} threads, median of {options.rounds}")
    for kind in KINDS:
        report(kind, {name: [run[kind] for run in runs] for name, runs in found.items()})


def report(kind: str, found: dict[str, list[list[float]]]) -> None:
    """Print a row for each number of tokens."""
    what = "tokens of one sequence" if kind == "tokens" else "sequences, one token each"
    print(f"\n{what}: milliseconds" + " " * 14 + "x one" + " " * 23 + "tokens/s")
    print(f"{'':>4}" + 3 * "".join(f"{name:>11}" for name in SIDES) + f"{'ratio':>8}{'to better':>11}")
    seconds = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}
    for row, number in enumerate(NUMBERS):
        times = {name: values[row] for name, values in seconds.items()}
        cells = [f"{1e3 * value:>11.1f}" for value in times.values()]
        cells += [f"{value / seconds[name][0]:>11.2f}" for name, value in times.items()]
        cells += [f"{number / value:>11.1f}" for value in times.values()]
        ratios = [value / times["patched"] for name, value in times.items() if name != "patched"]
        print(f"{number:>4}{''.join(cells)}{ratios[0]:>8.2f}{min(ratios):>11.2f}")


def measure(model: str, threads: int, *, repack: bool) -> dict[str, list[float]]:
    """Return seconds per call for each of `NUMBERS`, of tokens and of sequences: the best of several calls each."""
    import llama_cpp

    parameters = llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = repack
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), parameters)
    return {kind: timed(llama_cpp, loaded, threads, kind) for kind in KINDS}


def timed(llama_cpp: Any, model: Any, threads: int, kind: str) -> list[float]:
    """Time the calls of one kind; each number has its calls in a row, as a server has."""
    sequences = max(NUMBERS) if kind == "sequences" else 1  # 64 of the 0.8B have states of 1.2 GB
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = sequences * PROMPT + sum(NUMBERS) * (REPEATS + 1)  # all share the cells
    options.n_batch, options.n_ubatch, options.n_seq_max, options.kv_unified = 512, 512, sequences, True
    options.n_threads = options.n_threads_batch = threads
    ctx = llama_cpp.llama_init_from_model(model, options)
    positions = [0] * sequences
    for sequence in range(sequences):
        call(llama_cpp, ctx, [sequence] * PROMPT, positions)
    rows: Callable[[int], list[int]] = (lambda n: list(range(n))) if sequences > 1 else (lambda n: [0] * n)
    result = []
    for number in NUMBERS:
        seconds = []
        for _ in range(REPEATS + 1):  # the first call makes the graph
            start = time.perf_counter()
            call(llama_cpp, ctx, rows(number), positions)
            seconds.append(time.perf_counter() - start)
        result.append(min(seconds[1:]))
    llama_cpp.llama_free(ctx)
    return result


def call(llama_cpp: Any, ctx: Any, sequences: list[int], positions: list[int]) -> None:
    """Evaluate a token for each entry, of the sequence that it names; advance the positions."""
    batch = llama_cpp.llama_batch_init(len(sequences), 0, 1)
    batch.n_tokens = len(sequences)
    for i, sequence in enumerate(sequences):
        batch.token[i], batch.pos[i] = 100 + (37 * (positions[sequence] + sequence)) % 1000, positions[sequence]
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, 1
        positions[sequence] += 1
    if llama_cpp.llama_decode(ctx, batch):
        raise SystemExit("llama_decode failed")
    llama_cpp.llama_synchronize(ctx)
    llama_cpp.llama_batch_free(batch)


if __name__ == "__main__":
    main()
