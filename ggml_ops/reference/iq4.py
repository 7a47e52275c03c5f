"""IQ4_NL and IQ4_XS: quants are indices into sixteen uneven levels. Source: quantize_row_iq4_nl_impl, ggml-quants.c."""

from __future__ import annotations

import numpy as np

from qwen35_gguf.ggml_ops.reference.rounding import (
    F32,
    GROUP_MAX_EPS,
    Array,
    divide,
    extreme,
    fp16_bytes,
    nearest,
    ordered_sum,
)

LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
# best_index_int8 compares the distances to two levels and takes the upper one at a tie: the same as x < midpoint.
MIDPOINTS = (LEVELS[:-1] + LEVELS[1:]) / 2
TRIES = 7  # guesses to each side


def quantize_iq4_nl(x: Array, importance: Array | None) -> Array:
    """Blocks of 32: FP16 scale, 16 bytes of nibbles. (blocks, 32) to (blocks, 18)."""
    scale = _search(x, _search_weights(x[:, None], importance)[:, 0])
    return np.concatenate([fp16_bytes(scale), _nibbles(_index(x * divide(F32(1), scale)[:, None]))], axis=1)


def quantize_iq4_xs(x: Array, importance: Array | None) -> Array:
    """Super-blocks of 256: FP16 d, bits of eight six-bit scales, nibbles. (blocks, 256) to (blocks, 136)."""
    sub = x.reshape(-1, 8, 32)
    weights = _search_weights(sub, importance)
    scales = _search(sub.reshape(-1, 32), weights.reshape(-1, 32)).reshape(-1, 8)
    d = -extreme(scales) / F32(32)
    quantized = np.clip(nearest(divide(F32(1), d)[:, None] * scales), -32, 31)
    decoded = d[:, None] * quantized.astype(np.float32)  # with d before it is rounded to FP16
    indices = _index((sub * divide(F32(1), decoded)[:, :, None]).reshape(-1, 32))
    unsigned = quantized + 32
    low = (unsigned[:, 0::2] & 15 | (unsigned[:, 1::2] & 15) << 4).astype(np.uint8)
    high = (unsigned >> 4 << 2 * np.arange(8)).sum(axis=1).astype("<u2")[:, None].view(np.uint8)
    return np.concatenate([fp16_bytes(d), high, low, _nibbles(indices).reshape(-1, 128)], axis=1)


def _search_weights(sub: Array, importance: Array | None) -> Array:
    """Weigh an error by the importance of its column and the size of x within its block; without one, by x squared."""
    if importance is None:
        return sub * sub
    whole = sub.reshape(len(sub), -1)
    sigma2 = ordered_sum(whole * whole) * F32(2 / whole.shape[1])
    weights: Array = importance.reshape(sub.shape) * np.sqrt(sigma2[:, None, None] + sub * sub)
    return weights


def _index(x: Array) -> Array:
    """Return the index of the nearest level; NaN counts as large."""
    return np.searchsorted(MIDPOINTS, x, side="right").astype(np.int32)


def _search(x: Array, weights: Array) -> Array:
    """Search the scale of each block, (blocks, 32) to (blocks,); zero for blocks that are (nearly) zero."""
    top = extreme(x)

    def fit(inverse: Array) -> tuple[Array, Array]:
        q = LEVELS[_index(inverse[:, None] * x)]
        wq = weights * q
        return ordered_sum(wq * x), ordered_sum(wq * q)

    sum_qx, sum_q2 = fit(F32(1) / (-top / LEVELS[0]))
    scale = np.where(sum_q2 > 0, divide(sum_qx, sum_q2), F32(0))
    best = scale * sum_qx
    for step in range(-TRIES, TRIES + 1):
        sum_qx, sum_q2 = fit((F32(step) + LEVELS[0]) / top)
        better = (sum_q2 > 0) & (sum_qx * sum_qx > best * sum_q2)
        scale = np.where(better, divide(sum_qx, sum_q2), scale)
        best = np.where(better, scale * sum_qx, best)
    return np.where(np.abs(top) < GROUP_MAX_EPS, F32(0), scale)


def _nibbles(indices: Array) -> Array:
    """Of 32 indices, put the first 16 into low nibbles and the others into high nibbles."""
    both: Array = indices[:, :16] | indices[:, 16:] << 4
    return both.astype(np.uint8)
