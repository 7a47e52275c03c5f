"""The K-quants: super-blocks of 256 weights in sub-blocks with quantized scales. Source: ggml-quants.c.

Each function takes (blocks, 256) float32 and the importance of the same shape, or None without an importance matrix; it
returns (blocks, bytes) uint8.
"""

from __future__ import annotations

import numpy as np

from qwen35_gguf.ggml_ops.reference.rounding import (
    F32,
    GROUP_MAX_EPS,
    Array,
    byte,
    extreme,
    fp16,
    fp16_bytes,
    fp32,
    nearest,
    ordered_max,
    ordered_sum,
    signed_byte,
)
from qwen35_gguf.ggml_ops.reference.scale_search import (
    IMATRIX_STEPS,
    ScaleMin,
    Steps,
    make_q3_quants,
    make_qkx_quants,
    make_qp_quants,
    make_qx_quants,
)


def quantize_q2_k(x: Array, importance: Array | None) -> Array:
    """Four-bit scales and mins of 16 weights, two-bit quants, FP16 d and dmin: quantize_row_q2_K_ref and _impl."""
    sub = x.reshape(len(x), 16, 16)
    if importance is None:
        weights = np.abs(sub)
        found = _search(sub, weights, 3, Steps(-0.5, 0.1, 15), absolute=True)
        d, scales = _largest_to(found.scale, 15)
        dmin, mins = _largest_to(found.min, 15)
        scales = byte(scales)
    else:
        sigma2 = ordered_sum(x * x) / F32(256)
        weights = importance.reshape(sub.shape) * np.sqrt(sigma2[:, None, None] + sub * sub)
        found = _search(sub, weights, 3, IMATRIX_STEPS)
        d, scales = make_qp_quants(found.scale, ordered_sum(weights), 15)
        dmin, mins = make_qp_quants(found.min, ordered_sum(weights), 15)
    packed = byte(scales | mins << 4)
    scale = fp32(fp16(d))[:, None] * (packed & 15).astype(np.float32)
    minimum = fp32(fp16(dmin))[:, None] * (packed >> 4).astype(np.float32)
    quants = _requantize(sub, scale, minimum, found, 3)
    return np.concatenate([packed.astype(np.uint8), _two_bits(quants), fp16_bytes(d), fp16_bytes(dmin)], axis=1)


def quantize_q3_k(x: Array, importance: Array | None) -> Array:
    """Third bits, two low bits, six-bit scales of 16 weights, FP16 d: quantize_row_q3_K_ref and _impl."""
    sub = x.reshape(len(x), 16, 16)
    flat = sub.reshape(-1, 16)
    if importance is None:
        found = make_q3_quants(flat, 4)
        scales = found.scale.reshape(-1, 16)
        top = extreme(scales)
        inverse = F32(-32) / top
        d = np.where(top == 0, F32(0), F32(1) / inverse)
        quantized = np.clip(signed_byte(nearest(inverse[:, None] * scales)), -32, 31) + 32
        quantized = np.where(top[:, None] == 0, 0, quantized)
    else:
        sigma2 = F32(2) * ordered_sum(x * x) / F32(256)
        weights = importance.reshape(sub.shape) * np.sqrt(sigma2[:, None, None] + sub * sub)
        found = make_qx_quants(flat, weights.reshape(-1, 16), 4)
        d, quantized = make_qx_quants(found.scale.reshape(-1, 16), ordered_sum(weights), 32)
    scale = (fp32(fp16(d))[:, None] * (quantized - 32).astype(np.float32))[:, :, None]
    quants = np.clip(nearest(sub / scale), -4, 3) + 4
    quants = np.where(scale == 0, found.quants.reshape(sub.shape), quants).reshape(len(x), 256)
    third = np.packbits((quants >> 2).astype(np.uint8).reshape(-1, 8, 32), axis=1, bitorder="little")[:, 0]
    low = quantized[:, :8] & 15 | (quantized[:, 8:] & 15) << 4
    high = quantized.reshape(-1, 4, 4) >> 4
    high = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
    scale_bytes = np.concatenate([low, high], axis=1).astype(np.uint8)
    return np.concatenate([third, _two_bits(quants), scale_bytes, fp16_bytes(d)], axis=1)


def quantize_q4_k(x: Array, importance: Array | None) -> Array:
    """FP16 d and dmin, six-bit scales and mins of 32 weights, nibbles: quantize_row_q4_K_ref and _impl."""
    header, quants = _six_bit(x, importance, 15, Steps(-1.0, 0.1, 20), 255)
    return np.concatenate([header, _pair_nibbles(quants)], axis=1)


def quantize_q5_k(x: Array, importance: Array | None) -> Array:
    """As Q4_K, with the fifth bits of the quants before the nibbles: quantize_row_q5_K_ref and _impl."""
    header, quants = _six_bit(x, importance, 31, Steps(-0.5, 0.1, 15), 63)
    fifth = np.packbits((quants >> 4).astype(np.uint8).reshape(-1, 8, 32), axis=1, bitorder="little")[:, 0]
    return np.concatenate([header, fifth, _pair_nibbles(quants & 15)], axis=1)


def quantize_q6_k(x: Array, importance: Array | None) -> Array:
    """Low nibbles, two high bits, signed scales of 16 weights, FP16 d: quantize_row_q6_K_ref and _impl."""
    sub = x.reshape(len(x), 16, 16)
    weights = sub * sub if importance is None else importance.reshape(sub.shape)
    found = make_qx_quants(sub.reshape(-1, 16), weights.reshape(-1, 16), 32)
    scales = found.scale.reshape(-1, 16)
    top = extreme(scales)
    empty = np.abs(top) < GROUP_MAX_EPS  # then all bytes of the block are zero
    inverse = F32(-128) / top
    d = np.where(empty, F32(0), F32(1) / inverse)
    quantized = np.minimum(127, nearest(inverse[:, None] * scales))
    scale = (fp32(fp16(d))[:, None] * signed_byte(quantized).astype(np.float32))[:, :, None]
    quants = np.clip(nearest(sub / scale), -32, 31) + 32
    quants = np.where(scale == 0, found.quants.reshape(sub.shape), quants)
    quants = np.where(empty[:, None, None], 0, quants).reshape(-1, 2, 4, 32)
    low = quants & 15
    low = np.stack([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2)
    high = quants >> 4
    high = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    parts = [low.reshape(-1, 128), high.reshape(-1, 64), byte(np.where(empty[:, None], 0, quantized))]
    return np.concatenate([part.astype(np.uint8) for part in parts] + [fp16_bytes(d)], axis=1)


def _search(sub: Array, weights: Array, nmax: int, steps: Steps, *, absolute: bool = False) -> ScaleMin:
    """Search all sub-blocks: (blocks, sub-blocks, n) to scales and mins (blocks, sub-blocks), quants like `sub`."""
    n = sub.shape[2]
    found = make_qkx_quants(sub.reshape(-1, n), weights.reshape(-1, n), nmax, steps, absolute=absolute)
    shape = sub.shape[:2]
    return ScaleMin(found.scale.reshape(shape), found.min.reshape(shape), found.quants.reshape(sub.shape))


def _largest_to(values: Array, top: int) -> tuple[Array, Array]:
    """Scale values so that the largest becomes `top`: the scale (blocks,) and the quants (blocks, n)."""
    most = np.maximum(ordered_max(values), F32(0))
    quants = nearest((F32(top) / most)[:, None] * values)
    return np.where(most > 0, most / F32(top), F32(0)), np.where(most[:, None] > 0, quants, 0)


def _requantize(sub: Array, scale: Array, minimum: Array, found: ScaleMin, nmax: int) -> Array:
    """Round to the decoded scales and mins; where a scale is zero, keep the quants of the search."""
    quants = np.clip(nearest((sub + minimum[:, :, None]) / scale[:, :, None]), 0, nmax)
    return np.where(scale[:, :, None] == 0, found.quants, quants).reshape(len(sub), -1)


def _six_bit(x: Array, importance: Array | None, nmax: int, plain: Steps, limit: int) -> tuple[Array, Array]:
    """Return what Q4_K and Q5_K share: d, dmin and 12 bytes of scales and mins; the quants (blocks, 256)."""
    sub = x.reshape(len(x), 8, 32)
    if importance is None:
        average = np.sqrt(ordered_sum(sub * sub) / F32(32))
        found = _search(sub, average[:, :, None] + np.abs(sub), nmax, plain)
        d, scales = _largest_to(found.scale, 63)
        dmin, mins = _largest_to(found.min, 63)
        scales, mins = np.minimum(63, byte(scales)), np.minimum(63, byte(mins))
    else:
        sigma2 = F32(2) * ordered_sum(x * x) / F32(256)
        weights = importance.reshape(sub.shape) * np.sqrt(sigma2[:, None, None] + sub * sub)
        found = _search(sub, weights, nmax, IMATRIX_STEPS)
        d, scales = make_qp_quants(found.scale, ordered_sum(weights), 63)
        dmin, mins = make_qp_quants(found.min, ordered_sum(weights), 63)
        scales, mins = np.minimum(limit, scales), np.minimum(limit, mins)
    first = byte(scales[:, :4] | scales[:, 4:] >> 4 << 6)
    second = byte(mins[:, :4] | mins[:, 4:] >> 4 << 6)
    third = scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4
    # Decoded as get_scale_min_k4 does.
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    mins = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    scale = fp32(fp16(d))[:, None] * scales.astype(np.float32)
    minimum = fp32(fp16(dmin))[:, None] * mins.astype(np.float32)
    quants = _requantize(sub, scale, minimum, found, nmax)
    packed = np.concatenate([first, second, third], axis=1).astype(np.uint8)
    return np.concatenate([fp16_bytes(d), fp16_bytes(dmin), packed], axis=1), quants


def _pair_nibbles(quants: Array) -> Array:
    """Of each 64 quants, put the first 32 into low nibbles and the others into high nibbles."""
    pairs = quants.reshape(-1, 4, 2, 32)
    nibbles: Array = pairs[:, :, 0] | pairs[:, :, 1] << 4
    return nibbles.reshape(-1, 128).astype(np.uint8)


def _two_bits(quants: Array) -> Array:
    """Of each 128 quants, byte l gets the low two bits of l, l + 32, l + 64 and l + 96."""
    low = quants.reshape(-1, 2, 4, 32) & 3
    return (low[:, :, 0] | low[:, :, 1] << 2 | low[:, :, 2] << 4 | low[:, :, 3] << 6).reshape(-1, 64).astype(np.uint8)
