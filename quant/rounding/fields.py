"""Blocks as numbers: quants, scales, mins, d and dmin of the types that can be rounded by moments, and back to bytes.

A weight is value * d * scale - dmin * min, where the value is the quant itself, or one of sixteen uneven levels.

Source: llama.cpp ggml/src/ggml-common.h (the blocks) and ggml-quants.c (dequantize_row_*).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

Array = np.ndarray[Any, np.dtype[Any]]

# Of IQ4_NL and IQ4_XS (kvalues_iq4nl).
UNEVEN = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


class Fields(NamedTuple):
    """Numbers of blocks, (blocks,) or (blocks, groups) or (blocks, weights), float32; dmin and mins may be None."""

    d: Array
    dmin: Array | None
    scales: Array
    mins: Array | None
    values: Array


@dataclass(frozen=True)
class Layout:
    """A type whose blocks can be taken apart.

    Attributes:
        group: weights that share a scale and a min.
        quants: the smallest and the largest; of a type with levels, of the levels.
        scales: the smallest and the largest; equal if there is no scale but d.
        most_min: the largest min; 0 if there are none.
        levels: sixteen, if they are uneven.
        unpack: bytes (blocks, size) uint8 to integers: d, dmin, scales, mins, quants.
        pack: the inverse, of float16 d and dmin and integers.

    """

    group: int
    quants: tuple[int, int]
    scales: tuple[int, int]
    most_min: int
    levels: Array | None
    unpack: Callable[[Array], tuple[Array, Array | None, Array, Array | None, Array]]
    pack: Callable[[Array, Array | None, Array, Array | None, Array], Array]


def unpack(data: Array, type: Type) -> Fields:  # noqa: A002
    """Take blocks apart: (rows, row bytes) uint8, of all rows one block after the other."""
    layout = LAYOUTS[type]
    blocks = np.ascontiguousarray(data).reshape(-1, GGML_QUANT_SIZES[type][1])
    d, dmin, scales, mins, quants = layout.unpack(blocks)
    values = quants.astype(np.float32) if layout.levels is None else layout.levels[quants]
    wide_mins, wide_dmin = (None if x is None else _wide(x) for x in (mins, dmin))
    return Fields(_wide(d), wide_dmin, _wide(scales), wide_mins, values)


def pack(fields: Fields, type: Type) -> Array:  # noqa: A002
    """Make blocks of numbers in range: (blocks, block bytes) uint8."""
    layout = LAYOUTS[type]
    values = fields.values if layout.levels is None else np.searchsorted(layout.levels, fields.values)
    mins = None if fields.mins is None else fields.mins.astype(np.uint8)
    dmin = None if fields.dmin is None else fields.dmin.astype(np.float16)
    return layout.pack(fields.d.astype(np.float16), dmin, fields.scales.astype(np.int16), mins, values.astype(np.int16))


def _wide(x: Array) -> Array:
    wide: Array = x.astype(np.float32)
    return wide


def _fp16(two: Array) -> Array:
    halves: Array = np.ascontiguousarray(two).view("<f2")[:, 0]
    return halves


def _two_bytes(x: Array) -> Array:
    return np.ascontiguousarray(x, "<f2")[:, None].view(np.uint8)


def _join(*parts: Array) -> Array:
    return np.concatenate([part.astype(np.uint8, copy=False) for part in parts], axis=1)


def _signed(x: Array) -> Array:
    signed: Array = np.ascontiguousarray(x).view(np.int8).astype(np.int16)
    return signed


# Of each 64 quants, the first 32 are low nibbles and the others high nibbles.
def _nibbles(data: Array) -> Array:
    halves = data.reshape(-1, 4, 32)
    return np.stack([halves & 15, halves >> 4], axis=2).reshape(-1, 256)


def _as_nibbles(quants: Array) -> Array:
    pairs = quants.reshape(-1, 4, 2, 32)
    both: Array = pairs[:, :, 0] | pairs[:, :, 1] << 4
    return both.reshape(-1, 128)


# Of 32 indices, the first 16 are low nibbles.
def _short_nibbles(data: Array) -> Array:
    halves = data.reshape(len(data), -1, 16)
    return np.concatenate([halves & 15, halves >> 4], axis=2).reshape(len(data), -1)


def _as_short_nibbles(quants: Array) -> Array:
    halves = quants.reshape(len(quants), -1, 2, 16)
    both: Array = halves[:, :, 0] | halves[:, :, 1] << 4
    return both.reshape(len(quants), -1)


# Bit b of byte l is that of quant 32 b + l.
def _bits(data: Array) -> Array:
    return np.unpackbits(data[:, None], axis=1, bitorder="little").reshape(len(data), 256)


def _as_bits(bits: Array) -> Array:
    return np.packbits(bits.astype(np.uint8).reshape(-1, 8, 32), axis=1, bitorder="little")[:, 0]


# Of each 128 quants, byte l has two bits of l, l + 32, l + 64 and l + 96.
SHIFTS = np.array([0, 2, 4, 6], np.uint8)


def _pairs(data: Array) -> Array:
    four = data.reshape(len(data), -1, 1, 32) >> SHIFTS[:, None] & 3
    return four.reshape(len(data), -1)


def _as_pairs(two: Array) -> Array:
    four = two.reshape(len(two), -1, 4, 32)
    all_four: Array = four[:, :, 0] | four[:, :, 1] << 2 | four[:, :, 2] << 4 | four[:, :, 3] << 6
    return all_four.reshape(len(two), -1)


# Twelve bytes of eight scales and mins (get_scale_min_k4).
def _six_bits(data: Array) -> tuple[Array, Array]:
    first, second, third = data[:, :4], data[:, 4:8], data[:, 8:12]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    return scales, np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)


def _as_six_bits(scales: Array, mins: Array) -> Array:
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = mins[:, :4] | mins[:, 4:] >> 4 << 6
    return _join(first, second, scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4)


def _unpack_q2_k(b: Array) -> tuple[Array, Array | None, Array, Array | None, Array]:
    return _fp16(b[:, 80:82]), _fp16(b[:, 82:84]), b[:, :16] & 15, b[:, :16] >> 4, _pairs(b[:, 16:80])


def _pack_q2_k(d: Array, dmin: Array | None, scales: Array, mins: Array | None, q: Array) -> Array:
    assert dmin is not None
    assert mins is not None
    return _join(scales | mins << 4, _as_pairs(q), _two_bytes(d), _two_bytes(dmin))


def _unpack_q3_k(b: Array) -> tuple[Array, Array | None, Array, Array | None, Array]:
    q = (_pairs(b[:, 32:96]) | _bits(b[:, :32]) << 2).astype(np.int16) - 4
    low, high = b[:, 96:104], b[:, 104:108]
    scales = np.concatenate([low & 15, low >> 4], axis=1)
    high = (high[:, None] >> SHIFTS[:, None] & 3).reshape(-1, 16)
    return _fp16(b[:, 108:110]), None, (scales | high << 4).astype(np.int16) - 32, None, q


def _pack_q3_k(d: Array, _dmin: Array | None, scales: Array, _mins: Array | None, q: Array) -> Array:
    q, scales = q + 4, scales + 32
    low = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    four = scales.reshape(-1, 4, 4) >> 4
    high = four[:, 0] | four[:, 1] << 2 | four[:, 2] << 4 | four[:, 3] << 6
    return _join(_as_bits(q >> 2), _as_pairs(q & 3), low, high, _two_bytes(d))


def _unpack_q4_k(b: Array) -> tuple[Array, Array | None, Array, Array | None, Array]:
    return _fp16(b[:, :2]), _fp16(b[:, 2:4]), *_six_bits(b[:, 4:16]), _nibbles(b[:, 16:])


def _pack_q4_k(d: Array, dmin: Array | None, scales: Array, mins: Array | None, q: Array) -> Array:
    assert dmin is not None
    assert mins is not None
    return _join(_two_bytes(d), _two_bytes(dmin), _as_six_bits(scales, mins), _as_nibbles(q))


def _unpack_q5_k(b: Array) -> tuple[Array, Array | None, Array, Array | None, Array]:
    q = _nibbles(b[:, 48:]) | _bits(b[:, 16:48]) << 4
    return _fp16(b[:, :2]), _fp16(b[:, 2:4]), *_six_bits(b[:, 4:16]), q


def _pack_q5_k(d: Array, dmin: Array | None, scales: Array, mins: Array | None, q: Array) -> Array:
    assert dmin is not None
    assert mins is not None
    header = _join(_two_bytes(d), _two_bytes(dmin), _as_six_bits(scales, mins))
    return _join(header, _as_bits(q >> 4), _as_nibbles(q & 15))


def _unpack_q6_k(b: Array) -> tuple[Array, Array | None, Array, Array | None, Array]:
    low = b[:, :128].reshape(-1, 2, 2, 32)
    q = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 256) | _pairs(b[:, 128:192]) << 4
    return _fp16(b[:, 208:210]), None, _signed(b[:, 192:208]), None, q.astype(np.int16) - 32


def _pack_q6_k(d: Array, _dmin: Array | None, scales: Array, _mins: Array | None, q: Array) -> Array:
    low = ((q + 32) & 15).reshape(-1, 2, 2, 2, 32)
    nibbles = (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)
    return _join(nibbles, _as_pairs((q + 32) >> 4), scales.astype(np.int8).view(np.uint8), _two_bytes(d))


def _unpack_iq4_xs(b: Array) -> tuple[Array, Array | None, Array, Array | None, Array]:
    low = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    high = np.ascontiguousarray(b[:, 2:4]).view("<u2") >> 2 * np.arange(8, dtype=np.uint16) & 3
    scales = (low | high << 4).astype(np.int16) - 32
    return _fp16(b[:, :2]), None, scales, None, _short_nibbles(b[:, 8:])


def _pack_iq4_xs(d: Array, _dmin: Array | None, scales: Array, _mins: Array | None, q: Array) -> Array:
    scales = scales + 32
    high = (scales.astype("<u2") >> 4 << 2 * np.arange(8, dtype=np.uint16)).sum(axis=1).astype("<u2")[:, None]
    low = scales[:, 0::2] & 15 | (scales[:, 1::2] & 15) << 4
    return _join(_two_bytes(d), high.view(np.uint8), low, _as_short_nibbles(q))


def _one_scale(b: Array) -> Array:
    return np.ones((len(b), 1), np.int16)


def _unpack_iq4_nl(b: Array) -> tuple[Array, Array | None, Array, Array | None, Array]:
    return _fp16(b[:, :2]), None, _one_scale(b), None, _short_nibbles(b[:, 2:])


def _pack_iq4_nl(d: Array, _dmin: Array | None, _scales: Array, _mins: Array | None, q: Array) -> Array:
    return _join(_two_bytes(d), _as_short_nibbles(q))


def _unpack_q8_0(b: Array) -> tuple[Array, Array | None, Array, Array | None, Array]:
    return _fp16(b[:, :2]), None, _one_scale(b), None, _signed(b[:, 2:])


def _pack_q8_0(d: Array, _dmin: Array | None, _scales: Array, _mins: Array | None, q: Array) -> Array:
    return _join(_two_bytes(d), q.astype(np.int8).view(np.uint8))


LAYOUTS = {
    Type.Q2_K: Layout(16, (0, 3), (0, 15), 15, None, _unpack_q2_k, _pack_q2_k),
    Type.Q3_K: Layout(16, (-4, 3), (-32, 31), 0, None, _unpack_q3_k, _pack_q3_k),
    Type.Q4_K: Layout(32, (0, 15), (0, 63), 63, None, _unpack_q4_k, _pack_q4_k),
    Type.Q5_K: Layout(32, (0, 31), (0, 63), 63, None, _unpack_q5_k, _pack_q5_k),
    Type.Q6_K: Layout(16, (-32, 31), (-128, 127), 0, None, _unpack_q6_k, _pack_q6_k),
    Type.IQ4_XS: Layout(32, (-127, 113), (-32, 31), 0, UNEVEN, _unpack_iq4_xs, _pack_iq4_xs),
    Type.IQ4_NL: Layout(32, (-127, 113), (1, 1), 0, UNEVEN, _unpack_iq4_nl, _pack_iq4_nl),
    Type.Q8_0: Layout(32, (-127, 127), (1, 1), 0, None, _unpack_q8_0, _pack_q8_0),
}
