"""The NumPy twins of the quantizers against ggml_quantize_chunk and the kernels, bit for bit.

The twins of the other ops are compared in the tests of their kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inputs.hard_weights import IMPORTANCE, SHAPES, make
from oracles.ggml import ggml_quantize
from qwen35_gguf.ggml_ops import _native, reference, target
from qwen35_gguf.quant import kernels

Array = np.ndarray[Any, Any]

FORMATS = _native.quantize_formats()


def native(x: Array, format_: str, importance: Array | None) -> Array:
    blocks = np.zeros((x.shape[0], kernels.row_bytes(Type[format_], x.shape[1])), np.uint8)
    _native.quantize(np.ascontiguousarray(x).view(np.uint32), "f32", format_, importance, blocks, 1, target())
    return blocks


@pytest.mark.unit
def test_every_native_format_has_a_twin() -> None:
    assert sorted(reference.FORMATS) == sorted(FORMATS)
    for name, format_ in reference.FORMATS.items():
        assert format_.block == kernels.GGML_QUANT_SIZES[Type[name]][0]


@pytest.mark.parametrize("format_", FORMATS)
@settings(deadline=None, max_examples=25)
@example(shape="huge", weights="none", rows=3, seed=0)
@example(shape="all minus zero", weights="none", rows=3, seed=0)
@example(shape="subnormal", weights="with zeros", rows=3, seed=0)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    weights=st.sampled_from(sorted(IMPORTANCE)),
    rows=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_quantizers_give_the_bytes_of_ggml_and_of_the_kernels(
    format_: str, shape: str, weights: str, rows: int, seed: int
) -> None:
    x, importance = make(shape, weights, rows, seed)
    twin = reference.quantize(x, format_, importance)
    np.testing.assert_array_equal(twin, ggml_quantize(x, format_, importance))
    np.testing.assert_array_equal(twin, native(x, format_, importance))


@pytest.mark.parametrize("format_", FORMATS)
def test_trained_weights_give_the_bytes_of_ggml_and_of_the_kernels(format_: str) -> None:
    x = np.load(Path(__file__).with_name("trained_rows.npy"))[::8]
    for importance in (None, np.square(x).mean(axis=0)):
        twin = reference.quantize(x, format_, importance)
        np.testing.assert_array_equal(twin, ggml_quantize(x, format_, importance))
        np.testing.assert_array_equal(twin, native(x, format_, importance))


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_quantizers_give_the_bytes_of_ggml_for_every_pair_of_shape_and_importance(format_: str) -> None:
    for shape in SHAPES:
        for weights in IMPORTANCE:
            x, importance = make(shape, weights, 9, 1)
            twin = reference.quantize(x, format_, importance)
            assert np.array_equal(twin, ggml_quantize(x, format_, importance)), (shape, weights)


@pytest.mark.unit
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "Q4_1"])
def test_activations_are_rounded_to_the_nearest_multiple_of_their_scale(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    x[1, :256] = 0
    values, scales = reference.quantize_activations(x, name)
    assert values.dtype == np.int8
    assert scales.shape == (3, 512 // (32 if name in reference.BLOCKS_OF_32 else 256))
    step = np.repeat(scales, 512 // scales.shape[1], axis=1)
    error = np.abs(reference.dequantize_activations(values, scales) - x)
    assert (error <= 0.51 * step + 127 * 2.0**-11 * step * (name in reference.BLOCKS_OF_32)).all()
    assert (np.abs(values).reshape(*scales.shape, -1).max(axis=2)[scales > 0] == 127).all()
