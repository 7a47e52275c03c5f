"""Q8_0 and the legacy formats Q4_0, Q4_1, Q5_0, Q5_1: blocks of 32 weights. Source: ggml-quants.c.

Each function takes (blocks, 32) float32 and the weights of the search, or None without an importance matrix; it returns
(blocks, bytes) uint8.
"""

from __future__ import annotations

import numpy as np

from qwen35_gguf.ggml_ops.reference.rounding import (
    F32,
    Array,
    byte,
    divide,
    extreme,
    fp16_bytes,
    ordered_max,
    ordered_min,
    signed_byte,
    truncate,
)
from qwen35_gguf.ggml_ops.reference.scale_search import IMATRIX_STEPS, make_qkx_quants, make_qx_quants


def search_weights(x: Array, importance: Array) -> Array:
    """Return the weights of the search: (rows, columns) and (columns,) to (rows, columns).

    An error matters by the importance of its column, and more for a large weight; the mean square is that of the row.
    """
    mean_square = np.add.accumulate(x * x, axis=-1)[:, -1:] / F32(x.shape[1])
    weights: Array = importance * np.sqrt(mean_square + x * x)
    return weights


def quantize_q8_0(x: Array, _: Array | None) -> Array:
    """FP16 scale, 32 signed bytes: quantize_row_q8_0_ref. roundf rounds ties away from zero."""
    scale = np.abs(x).max(axis=1) / F32(127)
    scaled = x * divide(F32(1), scale)[:, None]
    quants = truncate(scaled + np.copysign(F32(0.49999997), scaled))
    return np.concatenate([fp16_bytes(scale), byte(quants).astype(np.uint8)], axis=1)


def quantize_q4_0(x: Array, weights: Array | None) -> Array:
    """FP16 scale, 16 bytes of nibbles: quantize_row_q4_0_ref and _impl."""
    scale, quants = _scaled(x, weights, 8)
    return np.concatenate([fp16_bytes(scale), _nibbles(quants)], axis=1)


def quantize_q5_0(x: Array, weights: Array | None) -> Array:
    """FP16 scale, 32 fifth bits, 16 bytes of nibbles: quantize_row_q5_0_ref and _impl."""
    scale, quants = _scaled(x, weights, 16)
    return np.concatenate([fp16_bytes(scale), _fifth_bits(quants), _nibbles(quants)], axis=1)


def quantize_q4_1(x: Array, weights: Array | None) -> Array:
    """FP16 scale and offset, 16 bytes of nibbles: quantize_row_q4_1_ref and _impl."""
    scale, low, quants = _scaled_from_min(x, weights, 15)
    return np.concatenate([fp16_bytes(scale), fp16_bytes(low), _nibbles(quants)], axis=1)


def quantize_q5_1(x: Array, weights: Array | None) -> Array:
    """FP16 scale and offset, 32 fifth bits, 16 bytes of nibbles: quantize_row_q5_1_ref and _impl."""
    scale, low, quants = _scaled_from_min(x, weights, 31)
    return np.concatenate([fp16_bytes(scale), fp16_bytes(low), _fifth_bits(quants), _nibbles(quants)], axis=1)


def _scaled(x: Array, weights: Array | None, nmax: int) -> tuple[Array, Array]:
    if weights is not None:
        return make_qx_quants(x, weights, nmax)
    scale = extreme(x) / F32(-nmax)
    cast = signed_byte(truncate(x * divide(F32(1), scale)[:, None] + F32(nmax + 0.5)))
    return scale, byte(np.minimum(cast, 2 * nmax - 1))


def _scaled_from_min(x: Array, weights: Array | None, nmax: int) -> tuple[Array, Array, Array]:
    if weights is not None:
        found = make_qkx_quants(x, weights, nmax, IMATRIX_STEPS)
        return found.scale, -found.min, found.quants
    low = ordered_min(x)
    scale = (ordered_max(x) - low) / F32(nmax)
    cast = truncate((x - low[:, None]) * divide(F32(1), scale)[:, None] + F32(0.5))
    # Q4_1 casts to int8_t and takes the minimum, Q5_1 casts to uint8_t.
    return scale, low, byte(np.minimum(signed_byte(cast), 15) if nmax == 15 else cast)


def _nibbles(quants: Array) -> Array:
    """Put the low four bits of the first 16 quants into low nibbles, those of the others into high nibbles."""
    low = quants & 15
    return (low[:, :16] | low[:, 16:] << 4).astype(np.uint8)


def _fifth_bits(quants: Array) -> Array:
    """Collect bit 4 of all 32 quants, the first one lowest."""
    return np.packbits((quants >> 4 & 1).astype(np.uint8), axis=1, bitorder="little")
