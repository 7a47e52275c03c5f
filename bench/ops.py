"""Microseconds per token and head of the gated delta rule: ours, stock ggml's op in a graph of its own, and the ratio.

.venv/bin/python bench/ops.py [--v-heads 16,32,48] [--lengths 1,16,64,512,2048] [--targets avx512,avx2] [--wy]

Both sides get the same inputs, alternating; the median run of each counts. The results are compared. The op of ggml
writes the new state behind its output; ours updates it in place.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from qwen35_gguf import ggml_ops
from qwen35_gguf.ggml_ops import _native
from qwen35_gguf.ggml_ops.arguments import empty
from runtime import environment

Array = np.ndarray[Any, np.dtype[np.float32]]

SIZE = 128
KEY_HEADS = 16
F32 = 0  # ggml's number for the type
SECONDS_PER_SIDE = 0.4  # of measuring for a row of the table


def main() -> None:
    """Print a table for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--v-heads", default="16,32,48", help="V heads, separated by commas")
    parser.add_argument("--lengths", default="1,16,64,512,2048", help="tokens, separated by commas")
    parser.add_argument("--targets", default=",".join(ggml_ops.targets()), help="instruction sets, separated by commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wy", action="store_true", help="instead: the time of the matmuls of the WY form alone")
    options = parser.parse_args()
    if options.wy:
        for chunk in (16, 32, 64):
            print(f"WY form, chunks of {chunk}: {wy_matmuls(chunk):.2f} us per token and head in numpy's BLAS")
        return
    ggml = Ggml()
    print(f"head size {SIZE}, {options.threads} threads; microseconds per token and head")
    print(f"{'target':<10}{'heads':>6}{'tokens':>8}{'ours':>10}{'ggml':>10}{'ratio':>8}")
    for target in options.targets.split(","):
        for heads in map(int, options.v_heads.split(",")):
            for tokens in map(int, options.lengths.split(",")):
                ours, theirs = compare(ggml, target, tokens, heads, options.threads)
                units = tokens * heads / 1e6
                print(
                    f"{target:<10}{heads:>6}{tokens:>8}{ours / units:>10.2f}{theirs / units:>10.2f}"
                    f"{theirs / ours:>8.2f}",
                    flush=True,
                )


def wy_matmuls(chunk: int) -> float:
    """Time the matmuls of a chunk in the WY form, without its triangular solve and its decays.

    A bound for kernels with larger chunks than ours: K K', Q K', K S, Q S, two matmuls with the chunk's matrices, and
    the update of the state. Set OPENBLAS_NUM_THREADS=1.
    """
    random = np.random.default_rng(0)
    k, q, u = (random.standard_normal((chunk, SIZE)).astype(np.float32) for _ in range(3))
    state = random.standard_normal((SIZE, SIZE)).astype(np.float32)
    among, of_state, change = (np.empty(shape, np.float32) for shape in ((chunk, chunk), (chunk, SIZE), (SIZE, SIZE)))

    def matmuls() -> None:
        for rows in (k, q):
            np.matmul(rows, k.T, out=among)
            np.matmul(rows, state.T, out=of_state)
            np.matmul(among, u, out=of_state)
        np.matmul(u.T, k, out=change)

    return min(timed(matmuls) for _ in range(2000)) * 1e6 / chunk


def compare(ggml: Ggml, target: str, tokens: int, heads: int, threads: int) -> tuple[float, float]:
    """Time both sides, alternating; return the seconds of ours and of ggml."""
    inputs = {name: aligned(array) for name, array in make_inputs(tokens, heads).items()}
    state = inputs.pop("state")
    out = empty(inputs["v"].shape)
    states = aligned(state[None])
    graph = ggml.graph(inputs, state, threads)

    def ours() -> None:
        _native.gated_delta_rule(
            inputs["q"], inputs["k"], inputs["v"], inputs["g"][:, :, None], inputs["beta"], states[0], out, states,
            threads, target,
        )  # fmt: skip

    ours()
    graph.compute()
    error = max(np.abs(out - graph.out).max(), np.abs(states[0] - graph.state).max())
    if not error < 1e-4:
        raise SystemExit(f"{target}: the results differ by {error}")
    seconds: tuple[list[float], list[float]] = ([], [])
    while len(seconds[0]) < 5 or sum(seconds[0]) + sum(seconds[1]) < 2 * SECONDS_PER_SIDE:
        for side, work in enumerate((ours, graph.compute)):
            seconds[side].append(timed(work))
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def make_inputs(tokens: int, heads: int) -> dict[str, Array]:
    """Make random inputs of the magnitudes in a layer."""
    random = np.random.default_rng(0)

    def unit() -> Array:
        x = random.standard_normal((tokens, KEY_HEADS, SIZE), dtype=np.float32)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    return {
        "q": unit(),
        "k": unit(),
        "v": random.standard_normal((tokens, heads, SIZE), dtype=np.float32),
        "g": -random.random((tokens, heads), dtype=np.float32),
        "beta": random.random((tokens, heads), dtype=np.float32),
        "state": 0.1 * random.standard_normal((heads, SIZE, SIZE), dtype=np.float32),
    }


def aligned(array: Array) -> Array:
    """Copy an array to memory aligned to 64 bytes, as ggml's is."""
    copy = empty(array.shape)
    copy[...] = array
    return copy


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Ggml:
    """The libggml of a stock llama-cpp-python, in an environment of its own."""

    def __init__(self) -> None:
        python = environment("stock", "native")
        (folder,) = python.parents[1].glob("lib/python*/site-packages/llama_cpp/lib")
        self.base = ctypes.CDLL(str(folder / "libggml-base.so"), ctypes.RTLD_GLOBAL)
        self.cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"), ctypes.RTLD_GLOBAL)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        signatures: list[tuple[ctypes.CDLL, str, Any, list[Any]]] = [
            (self.base, "ggml_init", pointer, [_InitParams]),
            (self.base, "ggml_free", None, [pointer]),
            (self.base, "ggml_new_tensor_4d", pointer, [pointer, ctypes.c_int, *[number] * 4]),
            (self.base, "ggml_get_data", pointer, [pointer]),
            (self.base, "ggml_gated_delta_net", pointer, [*[pointer] * 7, number]),
            (self.base, "ggml_new_graph", pointer, [pointer]),
            (self.base, "ggml_build_forward_expand", None, [pointer, pointer]),
            (self.cpu, "ggml_cpu_init", None, []),
            (self.cpu, "ggml_graph_plan", _Plan, [pointer, ctypes.c_int, pointer]),
            (self.cpu, "ggml_graph_compute", ctypes.c_int, [pointer, ctypes.POINTER(_Plan)]),
            (self.cpu, "ggml_threadpool_new", pointer, [ctypes.POINTER(_PoolParams)]),
            (self.cpu, "ggml_threadpool_free", None, [pointer]),
        ]
        for library, name, result, arguments in signatures:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self.base.ggml_threadpool_params_init.argtypes = [ctypes.POINTER(_PoolParams), ctypes.c_int]
        self.cpu.ggml_cpu_init()

    def graph(self, inputs: dict[str, Array], state: Array, threads: int) -> Graph:
        """Build a graph of the one op."""
        return Graph(self, inputs, state, threads)


class Graph:
    """A graph of one gated_delta_net."""

    def __init__(self, ggml: Ggml, inputs: dict[str, Array], state: Array, threads: int) -> None:
        self._ggml = ggml
        tokens, heads, size = inputs["v"].shape
        bytes_needed = sum(x.nbytes for x in inputs.values()) + inputs["v"].nbytes + 2 * state.nbytes + (1 << 22)
        self._context = ggml.base.ggml_init(_InitParams(bytes_needed, None, False))
        shapes = {
            "q": (size, KEY_HEADS, tokens, 1),
            "k": (size, KEY_HEADS, tokens, 1),
            "v": (size, heads, tokens, 1),
            "g": (1, heads, tokens, 1),
            "beta": (1, heads, tokens, 1),
            "state": (size, size, heads, 1),
        }
        tensors = []
        for name, array in {**inputs, "state": state}.items():
            tensor = ggml.base.ggml_new_tensor_4d(self._context, F32, *shapes[name])
            ctypes.memmove(ggml.base.ggml_get_data(tensor), array.ctypes.data, array.nbytes)
            tensors.append(tensor)
        result = ggml.base.ggml_gated_delta_net(self._context, *tensors, 1)
        self._graph = ggml.base.ggml_new_graph(self._context)
        ggml.base.ggml_build_forward_expand(self._graph, result)
        parameters = _PoolParams()
        ggml.base.ggml_threadpool_params_init(ctypes.byref(parameters), threads)
        self._pool = ggml.cpu.ggml_threadpool_new(ctypes.byref(parameters))
        self._plan = ggml.cpu.ggml_graph_plan(self._graph, threads, self._pool)
        self._work = ctypes.create_string_buffer(max(self._plan.work_size, 1))
        self._plan.work_data = ctypes.cast(self._work, ctypes.c_void_p)
        count = tokens * heads * size + state.size
        address = ggml.base.ggml_get_data(result)
        packed: Array = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,))
        self.out = packed[: tokens * heads * size].reshape(tokens, heads, size)
        self.state = packed[tokens * heads * size :].reshape(state.shape)

    def __del__(self) -> None:
        self._ggml.cpu.ggml_threadpool_free(self._pool)
        self._ggml.base.ggml_free(self._context)

    def compute(self) -> None:
        """Compute the graph."""
        if self._ggml.cpu.ggml_graph_compute(self._graph, ctypes.byref(self._plan)) != 0:
            raise SystemExit("ggml_graph_compute failed")


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class _Plan(ctypes.Structure):
    _fields_ = (
        ("work_size", ctypes.c_size_t),
        ("work_data", ctypes.c_void_p),
        ("n_threads", ctypes.c_int),
        ("threadpool", ctypes.c_void_p),
        ("abort_callback", ctypes.c_void_p),
        ("abort_callback_data", ctypes.c_void_p),
        ("use_ref", ctypes.c_bool),
    )


class _PoolParams(ctypes.Structure):
    _fields_ = (
        ("cpumask", ctypes.c_bool * 512),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


if __name__ == "__main__":
    main()
