"""Prefill and decode by the type of the weights: stock llama.cpp at two settings and the patched one, interleaved.

.venv/bin/python bench/matmul/by_type.py [--size 0.8b] [--layers N] [--quants Q2_K,Q4_0] [--rounds 3] [--cpu avx2]

A file with random weights is made for each of --quants from one checkpoint; the smallest types, which ask for an
importance matrix, get one in which all columns count alike. Builds, settings and columns are those of
bench/runtime.py; every measurement is a process of its own, which warms up first. Figures are tokens/s, medians of the
rounds; "ratio" is against stock's default, "to better" against the better of its two settings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime import (
    BUILDS,
    CMAKE_ARGS,
    SIDES,
    context,
    convert_checkpoint,
    decode,
    environment,
    in_environment,
    make_checkpoint,
    ratios,
    rotated,
)

QUANTS = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
QUANTS += ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
OF_IMPORTANCE = ("IQ1", "IQ2", "IQ3")  # names of such start so


def main() -> None:
    """Measure each type on all sides in turns; print two rows for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.8b")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--quants", default=",".join(QUANTS), help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", default="native", choices=CMAKE_ARGS, help="what both builds are compiled for")
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "THREADS", "REPACK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, threads, repack = options.child
        print(json.dumps(measure(path, int(threads), repack=repack == "True")))
        return
    pythons = {build: environment(build, options.cpu) for build in BUILDS}
    print(f"{options.size}, built for {options.cpu}, {options.threads} threads, median of {options.rounds}")
    print(f"{'':<16}" + "".join(f"{name:>11}" for name in SIDES) + f"{'ratio':>8}{'to better':>11}")
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = make_checkpoint(Path(scratch), options.size, options.layers)
        for quant in options.quants.split(","):
            importance = flat_importance(checkpoint) if quant.startswith(OF_IMPORTANCE) else []
            model = convert_checkpoint(checkpoint, quant, *importance)
            compare(quant, model, pythons, options)
            model.unlink()


def flat_importance(checkpoint: Path) -> list[str]:
    """Write an importance matrix of all ones beside the checkpoint, once; return the arguments that name it."""
    from qwen35_gguf.evaluation.collect_imatrix import weight_names
    from qwen35_gguf.gguf_file.reader import read_header
    from qwen35_gguf.quant import imatrix

    file = checkpoint / "importance.gguf"
    if not file.exists():
        model = convert_checkpoint(checkpoint, "Q4_0")
        header = read_header(model)
        names = set(weight_names(header))
        imatrix.write(imatrix.even((one.name, one.shape) for one in header.tensors if one.name in names), file)
        model.unlink()
    return ["--imatrix", str(file)]


def compare(quant: str, model: Path, pythons: dict[str, Path], options: argparse.Namespace) -> None:
    """Print the speeds of one file on all sides."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    for number in range(options.rounds):
        for name in rotated(SIDES, number):
            side = SIDES[name]
            python = pythons[side.build]
            found[name].append(in_environment(python, model, options.threads, side.repack, options.cpu, __file__))
    for test in ("pp512", "tg32"):
        row = {name: statistics.median(run[test] for run in runs) for name, runs in found.items()}
        values = "".join(f"{value:>11.1f}" for value in row.values())
        to_default, to_better = ratios(test, row)
        print(f"{f'{quant} {test}':<16}{values}{to_default:>8.2f}{to_better:>11.2f}", flush=True)


def measure(model: str, threads: int, *, repack: bool) -> dict[str, float]:
    """Return tokens/s of a prompt of 512 tokens and of 32 tokens after it: the best of two and of four."""
    import llama_cpp

    parameters = llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = repack
    ctx = context(llama_cpp, llama_cpp.llama_model_load_from_file(model.encode(), parameters), threads, rollback=0)
    seconds: dict[str, list[float]] = {"pp512": [], "tg32": []}
    for _ in range(2):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(ctx), True)
        decode(llama_cpp, ctx, 8, 0)
        start = time.perf_counter()
        decode(llama_cpp, ctx, 512, 8)
        llama_cpp.llama_synchronize(ctx)
        seconds["pp512"].append((time.perf_counter() - start) / 512)
        for first in (520, 552):
            start = time.perf_counter()
            for i in range(32):
                decode(llama_cpp, ctx, 1, first + i)
            llama_cpp.llama_synchronize(ctx)
            seconds["tg32"].append((time.perf_counter() - start) / 32)
    return {test: 1 / min(found) for test, found in seconds.items()}


if __name__ == "__main__":
    main()
