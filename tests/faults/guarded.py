"""Run every kernel on arrays that end at pages which may not be touched, for all targets of this processor.

    python tests/faults/guarded.py [KERNEL]

A kernel that reads or writes a byte beyond an array ends the process; the last line names it.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf.ggml_ops import _native
from qwen35_gguf.ggml_ops.attention_op import cache_bytes
from qwen35_gguf.ggml_ops.reference import grids
from qwen35_gguf.quant.rounding import round_rows

Array = np.ndarray[Any, Any]
PAGE = mmap.PAGESIZE
NONE = 0  # PROT_NONE
_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[mmap.mmap] = []


def guarded(values: Any, *, at_end: bool = True) -> Array:
    """Copy an array between two pages that may not be touched, to the end or to the beginning of what is between."""
    array = np.ascontiguousarray(values)
    room = -(-max(1, array.nbytes) // PAGE) * PAGE
    area = mmap.mmap(-1, room + 2 * PAGE)
    _kept.append(area)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for page in (address, address + PAGE + room):
        if _libc.mprotect(ctypes.c_void_p(page), PAGE, NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = PAGE + (room - array.nbytes if at_end else 0)
    inner = np.frombuffer(area, np.uint8, array.nbytes, start)
    made = inner.view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def random(*shape: int) -> Array:
    """Values near 1."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def quantize(target: str) -> None:
    """Quantize rows of every type of source and every format."""
    for name, (rows, blocks), at_end in itertools.product(_native.quantize_formats(), ((1, 1), (3, 5)), (True, False)):
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        columns = block * blocks
        for source, dtype in (("f32", np.float32), ("f16", np.float16)):
            x = guarded(random(rows, columns).astype(dtype), at_end=at_end)
            packed = guarded(np.zeros((rows, blocks * size), np.uint8), at_end=at_end)
            for importance in (None, guarded(np.ones(columns, np.float32), at_end=at_end)):
                _native.quantize(x, source, name, importance, packed, 1, target)


def non_finite(_target: str) -> None:
    """Look for what is not finite, in rows of any length."""
    for count, at_end in itertools.product((*range(1, 40), 257), (True, False)):
        assert _native.find_non_finite(guarded(random(1, count), at_end=at_end), "f32")[0] == 0


def delta_rule(target: str) -> None:
    """Every length up to a chunk and one more, heads of several sizes."""
    for tokens, size, at_end in itertools.product((1, 2, 5, 63, 65), (16, 64, 128), (True, False)):
        g, beta = -np.abs(random(tokens, 2, 1)) * np.float32(0.1), np.abs(random(tokens, 2)) % 1
        arrays = [*(random(tokens, 2, size) / np.float32(size) for _ in range(3)), g, beta, random(2, size, size)]
        inputs = [guarded(each, at_end=at_end) for each in arrays]
        out = guarded(np.zeros((tokens, 2, size), np.float32), at_end=at_end)
        states = guarded(np.zeros((1, 2, size, size), np.float32), at_end=at_end)
        _native.gated_delta_rule(*inputs, out, states, 1, target)


def convolution(target: str) -> None:
    """Channels that vectors do not divide."""
    for tokens, channels, at_end in itertools.product((1, 2, 7), (1, 3, 17, 64, 100), (True, False)):
        x, weight, state = random(tokens, channels), random(channels, 4), random(channels, 3)
        inputs = [guarded(each, at_end=at_end) for each in (x, weight, state)]
        out = guarded(np.zeros((tokens, channels), np.float32), at_end=at_end)
        _native.causal_conv1d_silu(*inputs, out, guarded(np.zeros_like(state), at_end=at_end), 1, target)


def attention(target: str) -> None:
    """Every type of cache, few and many rows, positions that tiles do not divide."""
    for kind, tokens, positions, size in itertools.product(CACHES, (1, 3, 40), (1, 33, 130), (64, 256)):
        cache = cache_bytes(random(positions, 2, size), kind)
        mask = np.zeros((tokens, positions), np.float16).view(np.uint16)
        q, out = random(tokens, 4, size), np.zeros((tokens, 4, size), np.float32)
        q, k, v, mask, out = (guarded(each) for each in (q, cache, cache, mask, out))
        _native.attention(q, k, kind, v, kind, mask, None, None, 0.1, 0.0, out, 1, target)


def matmul(target: str) -> None:
    """Every format, with batches of both kernels, and rows that are not a multiple of anything."""
    for name, rows, columns in itertools.product(MATMUL_FORMATS, (1, 13), (1, 3, 9, 20)):
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        for k in {max(256, block), 3 * max(256, block), 9 * block}:
            weights = guarded(np.zeros((rows, k // block * size), np.uint8))
            out = guarded(np.full((columns, rows), np.nan, np.float32))
            _native.mul_mat(weights, name, guarded(random(columns, k)), out, target)
            assert (out == 0).all() or name.startswith("IQ"), name


def float_matmul(target: str) -> None:
    """Rows of any length."""
    for name, dtype in (("F32", np.float32), ("F16", np.float16), ("BF16", np.uint16)):
        for rows, columns, k in itertools.product((1, 5), (1, 3, 17), (1, 7, 33, 130)):
            weights = guarded(np.zeros((rows, k), dtype))
            out = guarded(np.full((columns, rows), np.nan, np.float32))
            _native.float_mul_mat(weights.view(np.uint8), name, guarded(random(columns, k)), out, target)
            assert (out == 0).all(), name


class _Guarded:
    """The native module, whose functions get copies between guard pages of all arrays."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(_native, name)

        def call(*given: Any) -> Any:
            copies = [guarded(each) if isinstance(each, np.ndarray) else each for each in given]
            result = function(*copies)
            for each, copy in zip(given, copies, strict=True):
                if isinstance(each, np.ndarray) and each.flags.writeable:
                    each[...] = copy
            return result

        return call


def moment_rounding(target: str) -> None:
    """Every type, rows of a block and of several."""
    with (
        mock.patch.object(round_rows, "_native", _Guarded()),
        mock.patch.object(round_rows, "target", return_value=target),
    ):
        for kind, rows, columns in itertools.product(sorted(round_rows.TYPES), (1, 5), (256, 288)):
            if columns % GGML_QUANT_SIZES[kind][0]:
                continue
            x = random(40, columns)
            widths = [256, columns - 256] if columns > 256 else [columns]
            starts = np.cumsum([0, *widths])
            parts = [x[:, a:b] for a, b in itertools.pairwise(starts)]
            inputs = [round_rows.prepare(part.T @ part / np.float32(len(part))) for part in parts]
            effort = round_rows.Effort(1, 1, 1)
            assert np.isfinite(round_rows.round_rows(random(rows, columns), kind, inputs, effort=effort).after).all()


def finish(target: str) -> None:
    """What follows a matmul, in columns of any length."""
    for rows, gelu in itertools.product((1, 3, 16, 33), (True, False)):
        out, bias, summand = (guarded(random(rows)) for _ in range(3))
        _native.finish_mul_mat(out, bias, summand, gelu, target)


MATMUL_FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
MATMUL_FORMATS += tuple(grids.TYPES)
CACHES = ("f32", "f16", "bf16", "q8_0", "q4_0")
KERNELS = {
    "quantize": (quantize, _native.targets),
    "non_finite": (non_finite, lambda: [""]),
    "delta_rule": (delta_rule, _native.targets),
    "convolution": (convolution, _native.targets),
    "attention": (attention, _native.attention_targets),
    "matmul": (matmul, lambda: [*_native.mul_mat_targets(), "portable"]),
    "float_matmul": (float_matmul, _native.float_mul_mat_targets),
    "moment_rounding": (moment_rounding, _native.targets),
    "finish": (finish, _native.float_mul_mat_targets),
}


def main(names: list[str]) -> Iterator[str]:
    """Run kernels; yield what begins."""
    for name in names or KERNELS:
        run, targets = KERNELS[name]
        for target in targets():
            yield f"{name} {target}"
            run(target)
            _kept.clear()


if __name__ == "__main__":
    for begun in main(sys.argv[1:]):
        print(begun, flush=True)
    print("done", flush=True)
