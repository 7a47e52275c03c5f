"""The native quantizers against ggml_quantize_chunk, bit for bit, on every instruction set of this processor."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inputs.hard_weights import COLUMNS, IMPORTANCE, SHAPES, make
from oracles.ggml import ggml_accepts, ggml_quantize
from qwen35_gguf.ggml_ops import _native
from qwen35_gguf.quant import kernels

Array = np.ndarray[Any, Any]

FORMATS = _native.quantize_formats()
TARGETS = _native.targets()


def pack(x: Array, format_: str, importance: Array | None, target: str, source: str = "f32", threads: int = 1) -> Array:
    packed = np.zeros((x.shape[0], kernels.row_bytes(Type[format_], x.shape[1])), np.uint8)
    bits = np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")
    _native.quantize(bits, source, format_, importance, packed, threads, target)
    return packed


def assert_equal_bytes(ours: Array, theirs: Array) -> None:
    wrong = np.argwhere(ours != theirs)
    assert not len(wrong), f"{len(wrong)} bytes differ, first at row {wrong[0][0]}, byte {wrong[0][1]}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("format_", FORMATS)
@settings(deadline=None, max_examples=60)
@example(shape="huge", weights="none", rows=3, seed=0)
@example(shape="subnormal", weights="with zeros", rows=3, seed=0)
@example(shape="alternating tiny blocks", weights="none", rows=3, seed=0)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    weights=st.sampled_from(sorted(IMPORTANCE)),
    rows=st.integers(1, 19),
    seed=st.integers(0, 2**32 - 1),
)
def test_bytes_are_those_of_ggml(format_: str, target: str, shape: str, weights: str, rows: int, seed: int) -> None:
    x, importance = make(shape, weights, rows, seed)
    assert_equal_bytes(pack(x, format_, importance, target), ggml_quantize(x, format_, importance))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("format_", FORMATS)
def test_bytes_are_those_of_ggml_for_every_pair_of_shape_and_importance(format_: str, target: str) -> None:
    for seed in range(3):
        for shape in SHAPES:
            for weights in IMPORTANCE:
                x, importance = make(shape, weights, 33, seed)
                expected = ggml_quantize(x, format_, importance)
                assert np.array_equal(pack(x, format_, importance, target), expected), (shape, weights, seed)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("format_", FORMATS)
def test_trained_weights_give_the_bytes_of_ggml(format_: str, target: str) -> None:
    """Rows of a trained recurrent layer: weight_hh of the voice activity detector Silero VAD (MIT licence)."""
    x = np.load(Path(__file__).with_name("trained_rows.npy"))
    for importance in (None, np.square(x).mean(axis=0)):
        assert_equal_bytes(pack(x, format_, importance, target), ggml_quantize(x, format_, importance))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("format_", FORMATS)
def test_narrow_input_is_what_it_is_as_f32(format_: str, target: str) -> None:
    random = np.random.default_rng(1)
    importance = random.random(COLUMNS).astype(np.float32)
    for source, dtype in (("bf16", ml_dtypes.bfloat16), ("f16", np.float16)):
        for scale in (1.0, 3e-6):  # the second makes subnormal FP16 values
            x = (scale * random.standard_normal((7, COLUMNS))).astype(dtype)
            expected = ggml_quantize(x.astype(np.float32), format_, importance)
            assert_equal_bytes(pack(x, format_, importance, target, source), expected)


@pytest.mark.parametrize("format_", FORMATS)
def test_all_finite_halves_are_read_as_numpy_reads_them(format_: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    x = bits[np.isfinite(bits.view(np.float16))].view(np.float16).reshape(-1, 256)
    for target in TARGETS:
        assert_equal_bytes(pack(x, format_, None, target, "f16"), ggml_quantize(x.astype(np.float32), format_, None))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_do_not_change_a_byte(format_: str, threads: int) -> None:
    x = np.random.default_rng(2).standard_normal((700, COLUMNS)).astype(np.float32)
    assert_equal_bytes(pack(x, format_, None, TARGETS[0], threads=threads), ggml_quantize(x, format_, None))


@pytest.mark.unit
def test_the_uneven_levels_are_divided_at_the_midpoints() -> None:
    """What IQ4 relies on: ggml's comparison of two rounded distances decides like the midpoint, near all of them."""
    levels = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
    for low, high in itertools.pairwise(levels):
        middle = (low + high) / 2
        near = [middle]
        for direction in (-np.inf, np.inf):
            x = middle
            for _ in range(1000):
                x = np.nextafter(x, np.float32(direction))
                near.append(x)
        x = np.array(near, np.float32)
        np.testing.assert_array_equal(x - low < high - x, x < middle)


@pytest.mark.unit
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("source", "dtype"), [("f32", np.float32), ("bf16", ml_dtypes.bfloat16), ("f16", np.float16)])
def test_non_finite_weights_are_counted_and_located(source: str, dtype: Any, value: float) -> None:
    x = np.random.default_rng(3).standard_normal((300, COLUMNS)).astype(dtype)
    x[217, 40] = x[217, 41] = x[299, 511] = value
    bits = x.view(f"u{x.dtype.itemsize}")
    assert _native.find_non_finite(bits, source) == (3, 217 * COLUMNS + 40)
    packed = np.zeros((300, kernels.row_bytes(Type.Q4_K, COLUMNS)), np.uint8)
    for threads in (1, 3):
        assert _native.quantize(bits, source, "Q4_K", None, packed, threads, "")[:2] == (3, 217 * COLUMNS + 40)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("target", TARGETS)
def test_scales_that_no_half_holds_are_reported_as_ggml_does(format_: str, target: str) -> None:
    for scale in (1.0, 1e5, 1e6, 1e7, 1e9):
        x = (scale * np.random.default_rng(4).standard_normal((1, COLUMNS))).astype(np.float32)
        packed = np.zeros((1, kernels.row_bytes(Type[format_], COLUMNS)), np.uint8)
        fits = _native.quantize(x.view(np.uint32), "f32", format_, None, packed, 1, target)[2]
        assert fits == ggml_accepts(packed, format_), scale


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "Q9_K"}, "format Q9_K"),
        ({"target": "mmx"}, "target mmx"),
        ({"source": "f64"}, "source f64"),
        ({"packed": np.zeros((2, 8), np.uint8)}, "packed"),
        ({"importance": np.zeros(8, np.float32)}, "importance"),
        ({"x": np.zeros((2, 300), np.uint32)}, "whole blocks"),
    ],
)
def test_what_does_not_fit_together_is_a_value_error(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": np.zeros((2, 512), np.uint32),
        "source": "f32",
        "format": "Q4_K",
        "importance": None,
        "packed": np.zeros((2, 288), np.uint8),
        "threads": 1,
        "target": "",
    }
    with pytest.raises(ValueError, match=message):
        _native.quantize(**(arguments | change))


@pytest.mark.unit
def test_no_rows_are_packed_to_no_bytes() -> None:
    assert pack(np.zeros((0, 256), np.float32), "Q4_K", None, "").shape == (0, 144)
