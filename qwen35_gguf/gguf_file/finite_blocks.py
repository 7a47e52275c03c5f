"""Which blocks of weights have numbers that are not finite, without dequantizing them.

A block of quantized weights is a few scales and small integers: it is finite if its scales are, so only these are
tested. Source of the layouts: llama.cpp ggml/src/ggml-common.h, and ggml_validate_row_data for what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

Bytes = npt.NDArray[np.uint8]
Test = Callable[[Bytes], npt.NDArray[np.bool_]]


def _exponent_full(blocks: Bytes, *, at: int, mask: int, dtype: str) -> npt.NDArray[np.bool_]:
    """Return in which blocks the float at byte `at` is infinite or NaN; blocks is (n, bytes), the result (n,)."""
    width = np.dtype(dtype).itemsize
    bits = np.ascontiguousarray(blocks[:, at : at + width]).view(dtype)[:, 0]
    return np.asarray((bits & mask) == mask)


def _fp16(*offsets: int) -> tuple[Test, ...]:
    """Test the fp16 at each of these offsets."""
    return tuple(partial(_exponent_full, at=at, mask=0x7C00, dtype="<u2") for at in offsets)


def _iq1_m(blocks: Bytes) -> npt.NDArray[np.bool_]:
    """Test its scale, which is spread over the high nibbles of four words at byte 48."""
    words = np.ascontiguousarray(blocks[:, 48:56]).view("<u2")
    bits = (words[:, 0] >> 12) | ((words[:, 1] >> 8) & 0xF0) | ((words[:, 2] >> 4) & 0xF00) | (words[:, 3] & 0xF000)
    return np.asarray((bits & 0x7C00) == 0x7C00)


def _e8m0(blocks: Bytes) -> npt.NDArray[np.bool_]:
    return np.asarray(blocks[:, 0] == 0xFF)


_TESTS: dict[Type, tuple[Test, ...]] = {
    Type.F32: (partial(_exponent_full, at=0, mask=0x7F800000, dtype="<u4"),),
    Type.F64: (partial(_exponent_full, at=0, mask=0x7FF << 52, dtype="<u8"),),
    Type.F16: _fp16(0),
    Type.BF16: (partial(_exponent_full, at=0, mask=0x7F80, dtype="<u2"),),
    Type.Q4_0: _fp16(0),
    Type.Q4_1: _fp16(0, 2),
    Type.Q5_0: _fp16(0),
    Type.Q5_1: _fp16(0, 2),
    Type.Q8_0: _fp16(0),
    Type.Q2_K: _fp16(80, 82),  # after 16 scales and 64 bytes of weights
    Type.Q3_K: _fp16(108),  # after 32 + 64 bytes of weights and 12 of scales
    Type.Q4_K: _fp16(0, 2),
    Type.Q5_K: _fp16(0, 2),
    Type.Q6_K: _fp16(208),  # after 128 + 64 bytes of weights and 16 scales
    Type.IQ2_XXS: _fp16(0),
    Type.IQ2_XS: _fp16(0),
    Type.IQ2_S: _fp16(0),
    Type.IQ3_XXS: _fp16(0),
    Type.IQ3_S: _fp16(0),
    Type.IQ1_S: _fp16(0),
    Type.IQ1_M: (_iq1_m,),
    Type.IQ4_NL: _fp16(0),
    Type.IQ4_XS: _fp16(0),
    Type.TQ1_0: _fp16(52),  # after 48 + 4 bytes of weights
    Type.TQ2_0: _fp16(64),  # after 64 bytes of weights
    Type.MXFP4: (_e8m0,),
}

TESTED = frozenset(_TESTS)


def not_finite(blocks: Bytes, type: Type) -> npt.NDArray[np.bool_]:  # noqa: A002
    """Return which blocks are not finite, (blocks,).

    Args:
        blocks: (blocks, bytes of a block); one number each if the type is not quantized.
        type: one of TESTED.

    """
    bad = np.zeros(len(blocks), np.bool_)
    for test in _TESTS[type]:
        bad |= test(blocks)
    return bad
