"""What it costs to keep the state after each token of a step with drafts, so that wrong ones can be undone.

.venv/bin/python bench/snapshots.py [--layers 18] [--v-heads 16] [--threads 2] [--target avx2]

All delta nets of a model one after the other (0.8B by default), so that no cache holds their states; without and with a
snapshot for each token, in turns. Medians, in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from qwen35_gguf import ggml_ops
from qwen35_gguf.ggml_ops import _native
from qwen35_gguf.ggml_ops.arguments import empty

SIZE = 128
MOST = 5  # tokens: four drafts, and the token before them
REPEATS = 15


def main() -> None:
    """Print a row for each number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--v-heads", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", default=ggml_ops.targets()[0])
    options = parser.parse_args()
    layers = [empty((MOST, options.v_heads, SIZE, SIZE)) for _ in range(options.layers)]
    for states in layers:
        states[:] = 0.01
    print(f"{options.layers} layers of {options.v_heads} heads, {options.threads} threads, {options.target}; ms")
    print(f"{'tokens':>6}{'newest state':>14}{'all states':>12}{'ratio':>8}")
    for tokens in range(1, MOST + 1):
        found: dict[int, list[float]] = {1: [], MOST: []}
        for _ in range(REPEATS):
            for snapshots, seconds in found.items():
                seconds.append(run(layers, tokens, snapshots, options.threads, options.target))
        newest, every = (1e3 * statistics.median(seconds) for seconds in found.values())
        print(f"{tokens:>6}{newest:>14.2f}{every:>12.2f}{every / newest:>8.2f}", flush=True)


def run(layers: list[np.ndarray], tokens: int, snapshots: int, threads: int, target: str) -> float:
    """Return the seconds of a step of all layers, each in place."""
    random = np.random.default_rng(0)
    heads = layers[0].shape[1]
    q, k, v = (0.05 * random.standard_normal((3, tokens, heads, SIZE))).astype(np.float32)
    gate = -np.abs(random.standard_normal((tokens, heads, 1))).astype(np.float32)
    beta = random.random((tokens, heads)).astype(np.float32)
    out = empty((tokens, heads, SIZE))
    start = time.perf_counter()
    for states in layers:
        _native.gated_delta_rule(q, k, v, gate, beta, states[0], out, states[:snapshots], threads, target)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
