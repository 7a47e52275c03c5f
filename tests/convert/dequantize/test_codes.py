"""Codes are unpacked to the numbers that were packed, whatever their width, and in any number of rows at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inputs import quantized
from qwen35_gguf.convert.dequantize import codes

pytestmark = pytest.mark.unit


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 8), st.integers(1, 5), st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_packed_integers_are_unpacked(bits: int, rows: int, columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, (rows, columns))
    packed = quantized.pack(values, bits)
    assert packed.shape == (rows, codes.word_count(columns, bits))
    np.testing.assert_array_equal(codes.integers(packed, bits, columns, 3), values - 3)


def test_exponents_are_powers_of_two_and_255_is_nan() -> None:
    found = codes.powers_of_two(np.array([0, 126, 127, 128, 254, 255], np.uint8))
    np.testing.assert_array_equal(found, np.array([2.0**-127, 0.5, 1, 2, 2.0**127, np.nan], np.float32))


def test_files_of_older_compressed_tensors_have_gaps_in_odd_widths(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 8, (4, 64))
    words = np.zeros((4, 7), np.uint32)
    for column in range(64):
        words[:, column // 10] |= (values[:, column] << (3 * (column % 10))).astype(np.uint32)
    tensors = {
        "weight_packed": words.view(np.int32),
        "weight_scale": np.ones((4, 1), np.float32),
        "weight_shape": np.array([4, 64], np.int64),
    }
    config = quantized.compressed("pack-quantized", num_bits=3, type="int", strategy="channel")
    case = quantized.Case(config, lambda *_: {})
    (found,) = quantized.read_modules(quantized.write_module(tmp_path, case, tensors)).values()
    np.testing.assert_array_equal(found, values - 4)


@pytest.mark.parametrize("case", quantized.CASES.values(), ids=quantized.CASES.keys())
def test_rows_are_the_same_in_pieces_of_any_size(tmp_path: Path, case: quantized.Case) -> None:
    tensors = case.store(np.random.default_rng(1), 128, 256)
    folder = quantized.write_module(tmp_path, case, tensors)
    (whole,) = quantized.read_modules(folder).values()
    (tensor,) = quantized.open_modules(folder).values()
    for start, stop in ((0, 1), (1, 2), (5, 77), (127, 128)):
        np.testing.assert_array_equal(tensor.rows(start, stop), whole[start:stop])
