"""Million weights/s per thread for every format with a native kernel: ours, ggml's, and the ratio.

.venv/bin/python bench/quant.py [--target avx2] [--formats Q4_K,Q6_K] [--source bf16]

Both sides quantize the same rows in one thread, alternating; the fastest run of each counts. Every byte is compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType

from qwen35_gguf import ggml_ops
from qwen35_gguf.ggml_ops import _native
from qwen35_gguf.quant import kernels

ROWS, COLUMNS = 96, 4096
SOURCES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}


def main() -> None:
    """Print a row for each format, without and with an importance matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=ggml_ops.target(), choices=ggml_ops.targets())
    parser.add_argument("--formats", default=",".join(_native.quantize_formats()), help="names, separated by commas")
    parser.add_argument("--source", default="f32", choices=list(SOURCES), help="what ours reads; ggml reads f32")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    x = (0.02 * random.standard_normal((ROWS, COLUMNS))).astype(SOURCES[options.source])
    importance = random.random(COLUMNS).astype(np.float32)
    print(f"{options.target}, {options.source}; million weights/s per thread")
    print(f"{'':<10}{'ours':>10}{'ggml':>10}{'ratio':>8}   {'with importance':>15}{'ggml':>10}{'ratio':>8}")
    for name in options.formats.split(","):
        plain = compare(x, name, None, options.target, options.turns)
        weighed = compare(x, name, importance, options.target, options.turns)
        print(f"{name:<10}{row(*plain, 10)}   {row(*weighed, 15)}")


def compare(
    x: kernels.Array, name: str, importance: kernels.Array | None, target: str, turns: int
) -> tuple[float, float]:
    """Time both sides, alternating; return the weights/s of ours and of ggml."""
    kind = GGMLQuantizationType[name]
    wide = x.astype(np.float32)
    ours = np.empty((ROWS, kernels.row_bytes(kind, COLUMNS)), np.uint8)
    theirs = np.empty_like(ours)
    bits, source = kernels._bits(x)
    seconds = [
        min(turn)
        for turn in zip(
            *(
                (
                    timed(lambda: _native.quantize(bits, source, name, importance, ours, 1, target)),
                    timed(lambda: kernels._quantize_ggml(wide, kind, importance, theirs)),
                )
                for _ in range(turns)
            ),
            strict=True,
        )
    ]
    if not np.array_equal(ours, theirs):
        raise SystemExit(f"{name}: the bytes differ")
    return x.size / seconds[0], x.size / seconds[1]


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(ours: float, ggml: float, width: int) -> str:
    """Format one side of the table."""
    return f"{ours / 1e6:>{width}.1f}{ggml / 1e6:>10.1f}{ours / ggml:>8.1f}"


if __name__ == "__main__":
    main()
