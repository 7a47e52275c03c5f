"""The gated delta rule, ours against the operation of the installed llama.cpp, in the same process and in turns.

.venv/bin/python bench/ops.py [--heads 32] [--threads 2] [--target avx2]

ggml runs its operation in a graph of one node; both sides read the same arrays in the same layout, and their results
are compared. Printed are microseconds for each token and head.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_gguf import ggml_ops
from qwen35_gguf.ggml_ops import _native

Array = np.ndarray[Any, Any]

SIZE = 128
LENGTHS = (1, 4, 16, 64, 512, 2048)
F32 = 0


class InitParams(ctypes.Structure):
    """ggml_init_params of ggml.h."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """One graph with one gated_delta_net, whose inputs are copied in once."""

    def __init__(self, case: dict[str, Array], threads: int) -> None:
        base, self.cpu = _load("ggml-base"), _load("ggml-cpu")
        self.threads = threads
        tokens, heads, size = case["v"].shape
        nbytes = sum(array.nbytes for array in case.values()) + (tokens * size + size * size) * heads * 4
        base.ggml_init.restype = ctypes.c_void_p
        self.context = ctypes.c_void_p(base.ggml_init(InitParams(nbytes + (64 << 20), None, False)))
        shapes = {
            "q": (size, case["q"].shape[1], tokens, 1),
            "k": (size, case["k"].shape[1], tokens, 1),
            "v": (size, heads, tokens, 1),
            "g": (1, heads, tokens, 1),
            "beta": (1, heads, tokens, 1),
            "state": (size, size, heads, 1),
        }
        base.ggml_new_tensor_4d.restype = ctypes.c_void_p
        base.ggml_get_data.restype = ctypes.c_void_p
        inputs = []
        for name, shape in shapes.items():
            extents = (ctypes.c_int64(n) for n in shape)
            tensor = ctypes.c_void_p(base.ggml_new_tensor_4d(self.context, F32, *extents))
            data = base.ggml_get_data(tensor)
            ctypes.memmove(data, case[name].ctypes.data, case[name].nbytes)
            inputs.append(tensor)
        base.ggml_gated_delta_net.restype = ctypes.c_void_p
        node = ctypes.c_void_p(base.ggml_gated_delta_net(self.context, *inputs, ctypes.c_int64(1)))
        base.ggml_new_graph.restype = ctypes.c_void_p
        self.graph = ctypes.c_void_p(base.ggml_new_graph(self.context))
        base.ggml_build_forward_expand(self.graph, node)
        count = tokens * heads * size
        floats = ctypes.cast(base.ggml_get_data(node), ctypes.POINTER(ctypes.c_float))
        everything = np.ctypeslib.as_array(floats, (count + heads * size * size,))
        self.out = everything[:count].reshape(tokens, heads, size)
        self.free: Callable[[], None] = lambda: base.ggml_free(self.context)

    def run(self) -> None:
        """Compute the graph."""
        self.cpu.ggml_graph_compute_with_ctx(self.context, self.graph, self.threads)


def main() -> None:
    """Print a row for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=32, help="value heads; half as many key heads")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default=ggml_ops.target(), choices=ggml_ops.targets())
    options = parser.parse_args()
    print(f"{options.target}, {options.heads} heads of {SIZE}, {options.threads} threads: us for each token and head")
    print(f"{'tokens':>8}{'ours':>10}{'ggml':>10}{'ratio':>8}")
    for tokens in LENGTHS:
        ours, theirs = compare(tokens, options.heads, options.threads, options.target)
        print(f"{tokens:>8}{ours:>10.3f}{theirs:>10.3f}{theirs / ours:>8.1f}")


def compare(tokens: int, heads: int, threads: int, target: str) -> tuple[float, float]:
    """Run both sides in turns; return the fastest turn of each, a token and head."""
    case = make(tokens, heads)
    ggml = Ggml(case, threads)
    out = np.empty_like(case["v"])
    states = np.empty((1, heads, SIZE, SIZE), np.float32)
    gates = case["g"][:, :, None]
    rest = (case["q"], case["k"], case["v"], gates, case["beta"], case["state"], out, states, threads, target)
    fastest = [float("inf"), float("inf")]
    for _ in range(max(5, 400 // tokens)):
        for side, work in enumerate((lambda: _native.gated_delta_rule(*rest), ggml.run)):
            start = time.perf_counter()
            work()
            fastest[side] = min(fastest[side], time.perf_counter() - start)
    if np.abs(out - ggml.out).max() > 1e-5 * np.abs(out).max():
        raise SystemExit("the results differ")
    ggml.free()
    return fastest[0] / tokens / heads * 1e6, fastest[1] / tokens / heads * 1e6


def make(tokens: int, heads: int) -> dict[str, Array]:
    """Make seeded inputs with normalized q and k and decays as a model has them."""
    random = np.random.default_rng(tokens)

    def normalized() -> Array:
        x = random.standard_normal((tokens, heads // 2, SIZE))
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    return {
        "q": normalized(),
        "k": normalized(),
        "v": random.standard_normal((tokens, heads, SIZE)).astype(np.float32),
        "g": -np.exp(random.standard_normal((tokens, heads)) - 2).astype(np.float32),
        "beta": random.random((tokens, heads)).astype(np.float32),
        "state": random.standard_normal((heads, SIZE, SIZE)).astype(np.float32),
    }


def _load(name: str) -> ctypes.CDLL:
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llama-cpp-python is not installed; pip install -e '.[runtime]'")
    folder = os.environ.get("QWEN35_GGML_LIB") or Path(spec.submodule_search_locations[0], "lib")
    return ctypes.CDLL(str(Path(folder, f"lib{name}.so")), mode=ctypes.RTLD_GLOBAL)


if __name__ == "__main__":
    main()
