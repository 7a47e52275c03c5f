"""Nanoseconds for 256 weights of one row, by the number of columns: where GEMV ends and GEMM begins.

.venv/bin/python bench/matmul/columns.py [--target avx2] [--formats Q4_0,Q4_K] [--rounds 20] [--rows 2048]

One thread, weights in the cache; with --rows 131072 they come from memory. All numbers of columns are measured in turns
and the best round counts, so that other load and a changing clock meet all of them. What a call costs for few rows, the
memory that it takes and rounding the columns to 8 bits, is subtracted. The last figure is the largest batch that GEMV
takes, seen by where the bits change: a column has the same bits in all batches of GEMV.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf.ggml_ops import _native

COLUMNS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 32, 64)
FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
FORMATS += ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS")
FEW_ROWS, K = 64, 1024


def main() -> None:
    """Print a row for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=_native.mul_mat_targets()[0], choices=_native.mul_mat_targets())
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2048)
    options = parser.parse_args()
    print(f"{options.target}, ns for 256 weights\n| | " + " | ".join(map(str, COLUMNS)) + " | GEMV |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for name in options.formats.split(","):
        packed = weights(name, options.rows)
        x = np.random.default_rng(1).standard_normal((max(COLUMNS), K)).astype(np.float32)
        best, few = dict.fromkeys(COLUMNS, float("inf")), dict.fromkeys(COLUMNS, float("inf"))
        for _ in range(options.rounds):
            for columns in COLUMNS:
                best[columns] = min(best[columns], seconds(packed, name, x[:columns], options.target))
                few[columns] = min(few[columns], seconds(packed[:FEW_ROWS], name, x[:columns], options.target))
        blocks = (options.rows - FEW_ROWS) * K / 256
        figures = [f"{(best[columns] - few[columns]) / blocks * 1e9:.1f}" for columns in COLUMNS]
        figures.append(str(gemv_columns(packed, name, x, options.target)))
        print(f"| {name} | " + " | ".join(figures) + " |", flush=True)


def weights(name: str, rows: int) -> np.ndarray[Any, Any]:
    """Make rows of a format of random bytes, whose scales are small numbers."""
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    return np.random.default_rng(0).integers(0, 0x3C, (rows, K // values * size), np.uint8)


def multiply(packed: np.ndarray[Any, Any], name: str, x: np.ndarray[Any, Any], target: str) -> np.ndarray[Any, Any]:
    """Return the matmul, columns x rows."""
    out = np.empty((len(x), len(packed)), np.float32)
    _native.mul_mat(packed, name, x, out, target)
    return out


def seconds(packed: np.ndarray[Any, Any], name: str, x: np.ndarray[Any, Any], target: str) -> float:
    """Time the second of two calls."""
    multiply(packed, name, x, target)
    start = time.perf_counter()
    multiply(packed, name, x, target)
    return time.perf_counter() - start


def gemv_columns(packed: np.ndarray[Any, Any], name: str, x: np.ndarray[Any, Any], target: str) -> int:
    """Count the columns up to which the first one has the bits that it has alone."""
    alone = multiply(packed, name, x[:1], target)[0]
    same = (c for c in range(2, 20) if not np.array_equal(multiply(packed, name, x[:c], target)[0], alone))
    return next(same, 20) - 1


if __name__ == "__main__":
    main()
