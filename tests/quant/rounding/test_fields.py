"""Blocks taken apart are what ggml decodes, and go together again byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, dequantize
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.quant.rounding.fields import LAYOUTS, pack, unpack

pytestmark = pytest.mark.unit


def random_blocks(type_: Type, count: int = 64) -> np.ndarray:
    """Any bytes are blocks, but for the scales: FP16 numbers of usual sizes."""
    size, random = GGML_QUANT_SIZES[type_][1], np.random.default_rng(int(type_))
    data = random.integers(0, 256, (count, size), np.uint8)
    at = {Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,)}
    for offset in at.get(type_, (0,)):
        data[:, offset : offset + 2] = random.normal(0, 0.1, (count, 1)).astype("<f2").view(np.uint8)
    if type_ == Type.Q8_0:
        data[:, 2:] = np.where(data[:, 2:] == 128, 0, data[:, 2:])
    return data


@pytest.mark.parametrize("type_", LAYOUTS)
def test_the_same_bytes_come_back(type_: Type) -> None:
    data = random_blocks(type_)
    assert (pack(unpack(data, type_), type_) == data).all()


@pytest.mark.parametrize("type_", LAYOUTS)
def test_the_numbers_decode_to_what_gguf_reads(type_: Type) -> None:
    data, layout = random_blocks(type_), LAYOUTS[type_]
    fields = unpack(data, type_)
    values = fields.values.reshape(len(data), -1, layout.group)
    decoded = values * (fields.d[:, None] * fields.scales)[:, :, None]
    if fields.mins is not None:
        decoded = decoded - (fields.dmin[:, None] * fields.mins)[:, :, None]
    np.testing.assert_allclose(decoded.reshape(len(data), -1), dequantize(data, type_), rtol=1e-5, atol=1e-6)
    assert layout.quants[0] <= fields.values.min() <= fields.values.max() <= layout.quants[1]
    assert layout.scales[0] <= fields.scales.min() <= fields.scales.max() <= layout.scales[1]
