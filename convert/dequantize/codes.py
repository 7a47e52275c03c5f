"""From codes to numbers: fixed-width integers packed into words, and the small floating-point types.

All functions are lookups in tables of numbers, so that a byte of several codes costs one step.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# E2M1, the elements of MXFP4 and NVFP4: a sign, two bits of exponent, one of mantissa (OCP Microscaling Formats 1.0).
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
WORD = 32  # bits
FLOAT8 = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


def pairs(packed: Array, table: Array, *, high_first: bool = False) -> Array:
    """Look up two 4-bit codes a byte: (rows, bytes) uint8 and 16 numbers -> (rows, 2 * bytes) F32."""
    byte = np.arange(256)
    halves = [byte >> 4, byte & 15] if high_first else [byte & 15, byte >> 4]
    lookup = np.ascontiguousarray(np.stack([table[half] for half in halves], -1).astype(np.float32))
    return _lookup(packed, lookup)


def float8(stored: Array, dtype: str) -> Array:
    """Widen 8-bit floating-point numbers to F32: (rows, columns) of the dtype that safetensors names."""
    table = np.arange(256, dtype=np.uint8).view(FLOAT8[dtype]).astype(np.float32)
    return _lookup(stored.view(np.uint8), table[:, None])


def powers_of_two(stored: Array) -> Array:
    """Widen E8M0 scales, exponents with a bias of 127, to F32; the code 255 is NaN."""
    exponents = stored.view(np.uint8).astype(np.int32)
    known = np.ldexp(np.float32(1), np.minimum(exponents, 254) - 127)
    result: Array = np.where(exponents == 255, np.float32(np.nan), known).astype(np.float32)
    return result


def integers(words: Array, bits: int, columns: int, offset: int = 0) -> Array:
    """Unpack unsigned integers, lowest bits first, without gaps: (rows, words) of 32 bits -> (rows, columns) F32.

    Args:
        words: the packed integers of each row.
        bits: of an integer; may straddle two words.
        columns: integers in a row.
        offset: is subtracted.

    """
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits in (2, 4, 8):
        codes = np.stack([(np.arange(256) >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)], -1)
        found = _lookup(octets, (codes - offset).astype(np.float32))
    else:
        table = (np.arange(1 << bits) - offset).astype(np.float32)
        found = table[_straddling(np.ascontiguousarray(words).view(np.uint32), bits)]
    return found[:, :columns]


def integers_with_gaps(words: Array, bits: int, columns: int, offset: int = 0) -> Array:
    """Unpack integers of which each word holds as many as fit whole, as compressed-tensors wrote odd widths once."""
    each = WORD // bits
    shifts = (np.arange(each) * bits).astype(np.uint32)
    codes = (np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    found: Array = codes.reshape(len(words), -1)[:, :columns].astype(np.float32) - np.float32(offset)
    return found


def word_count(columns: int, bits: int) -> int:
    """Return how many words hold a row without gaps."""
    return -(-columns * bits // WORD)


def _straddling(words: Array, bits: int) -> Array:
    """Unpack 32 integers of each group of `bits` words -> (rows, 32 * groups) uint8."""
    rows, count = words.shape
    padded = np.pad(words, ((0, 0), (0, -count % bits)))
    groups = padded.reshape(rows, -1, bits)
    codes = np.empty((rows, groups.shape[1], WORD), np.uint8)
    mask = np.uint32((1 << bits) - 1)
    for number in range(WORD):
        word, shift = divmod(number * bits, WORD)
        found = groups[:, :, word] >> np.uint32(shift)
        if shift + bits > WORD:
            found = found | groups[:, :, word + 1] << np.uint32(WORD - shift)
        codes[:, :, number] = found & mask
    return codes.reshape(rows, -1)


def _lookup(octets: Array, table: Array) -> Array:
    """Replace each byte by its entry: (rows, bytes) uint8 and (256, n) F32 -> (rows, n * bytes) F32."""
    width = table.shape[1]
    whole: Array = table.view({1: np.uint32, 2: np.uint64, 4: np.complex128}[width]).ravel()
    found: Array = whole[octets].view(np.float32)
    return found
