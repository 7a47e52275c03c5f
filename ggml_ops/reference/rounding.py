"""How ggml rounds: the steps that must be imitated exactly, so that a twin gives the bytes of the kernel.

All arrays are float32 (or int32 quants) with the elements of a block in the last axis. A sum in ggml is a loop: it adds
from left to right in float32, and another order would give other bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

F32 = np.float32
GROUP_MAX_EPS = F32(1e-15)  # below this, a block counts as zero
INT_MIN = np.iinfo(np.int32).min


def ordered_sum(terms: Array) -> Array:
    """Add along the last axis from left to right, starting from zero."""
    total: Array = np.add.accumulate(terms, axis=-1)[..., -1] + F32(0)
    return total


def ordered_min(x: Array) -> Array:
    """Return the smallest element of the last axis; of zeros with two signs, the first."""
    least = x[..., 0]
    for i in range(1, x.shape[-1]):
        least = np.where(x[..., i] < least, x[..., i], least)
    return least


def ordered_max(x: Array) -> Array:
    """Return the largest element of the last axis; of zeros with two signs, the first."""
    most = x[..., 0]
    for i in range(1, x.shape[-1]):
        most = np.where(x[..., i] > most, x[..., i], most)
    return most


def extreme(x: Array) -> Array:
    """Return the first element of the largest magnitude, with its sign; of zeros +0. NaN is ignored."""
    found = np.zeros_like(x[..., 0])
    for i in range(x.shape[-1]):
        found = np.where(np.abs(x[..., i]) > np.abs(found), x[..., i], found)
    return found


def nearest(x: Array) -> Array:
    """Round to int32 as nearest_int of ggml-quants.c: by adding 1.5 * 2^23 and reading the bits of the sum."""
    bits: Array = (x + F32(12582912)).view(np.int32)
    return (bits & 0x007FFFFF) - 0x00400000


def truncate(x: Array) -> Array:
    """Convert to int32 as a C cast on x86: towards zero; -2^31 for NaN and beyond the range."""
    fits = np.abs(x) < F32(2**31)
    return np.where(fits, np.where(fits, x, F32(0)).astype(np.int32), np.int32(INT_MIN))


def signed_byte(x: Array) -> Array:
    """Keep the low eight bits of int32, as a C cast to int8_t."""
    return x.astype(np.int8).astype(np.int32)


def byte(x: Array) -> Array:
    """Keep the low eight bits of int32, as a C cast to uint8_t."""
    return x & 0xFF


def divide(a: Array, b: Array) -> Array:
    """Return a / b, and zero where b is zero."""
    return np.where(b == 0, F32(0), a / np.where(b == 0, F32(1), b))


def fp16(x: Array) -> Array:
    """Round to FP16, to nearest even; infinity beyond 65519."""
    return x.astype(np.float16)


def fp16_bytes(x: Array) -> Array:
    """Return the two bytes of FP16 scales, (...) to (..., 2)."""
    return np.ascontiguousarray(x, np.float16)[..., None].view(np.uint8)


def fp32(x: Array) -> Array:
    """Widen FP16 to float32, exactly."""
    return x.astype(np.float32)


def fused(a: Array, b: Array, c: Array) -> Array:
    """Return a * b + c of float32, rounded once.

    a * b is exact in float64. Its sum with c is rounded to odd there, so that rounding it to float32 gives what
    rounding once does (Boldo and Melquiond 2008).
    """
    exact = np.multiply(a, b, dtype=np.float64)
    wide = np.asarray(c, np.float64)
    total = exact + wide
    other = total - exact
    lost = (exact - (total - other)) + (wide - other)
    bits = total.view(np.int64)
    towards = np.where((lost > 0) == (total > 0), 1, -1)
    odd = np.where((lost != 0) & np.isfinite(total) & (bits & 1 == 0), bits + towards, bits)
    return odd.view(np.float64).astype(F32)
