"""Matmul of floating-point weights against float64: gguf's values, and activations rounded as ggml rounds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf import quant
from qwen35_gguf.ggml_ops import _native, reference

Array = np.ndarray[Any, Any]

FORMATS = ["F32", "F16", "BF16"]
COLUMNS = [*range(1, 40), 48, 61]
TOLERANCE = 2e-6  # of the sum without its signs: the same terms in another order

pytestmark = pytest.mark.unit


@pytest.fixture(params=_native.float_mul_mat_targets())
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def multiply(weights: Array, name: str, x: Array, target: str) -> Array:
    out = np.full((len(x), len(weights)), np.nan, np.float32)
    _native.float_mul_mat(weights, name, x, out, target)
    return out


def expected(weights: Array, name: str, x: Array) -> tuple[Array, Array]:
    """Return the matmul, and the sum of magnitudes that rounding errors are relative to."""
    matmul = reference.float_mul_mat(weights, name, x)
    sign = {"F32": 0x7FFFFFFF, "F16": 0x7FFF, "BF16": 0x7FFF}[name]
    unsigned = np.uint32 if name == "F32" else np.uint16
    magnitudes = (weights.view(unsigned) & unsigned(sign)).view(np.uint8)
    return matmul, reference.float_mul_mat(magnitudes, name, np.abs(x))


def make(name: str, rows: int, columns: int, k: int, seed: int = 0) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    weights = quant.quantize(random.standard_normal((rows, k)).astype(np.float32), name)
    return weights.view(np.uint8), random.standard_normal((columns, k)).astype(np.float32)


def assert_close(found: Array, wanted: tuple[Array, Array]) -> None:
    matmul, magnitude = (array[: len(found)] for array in wanted)
    assert np.isfinite(found).all()
    assert (np.abs(found - matmul) <= TOLERANCE * magnitude).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rows", "k"), [(1, 1), (37, 131), (70, 2304), (33, 33)])
def test_any_number_of_columns_and_rows(name: str, rows: int, k: int, target: str) -> None:
    weights, x = make(name, rows, max(COLUMNS), k)
    wanted = expected(weights, name, x)
    for columns in COLUMNS:
        assert_close(multiply(weights, name, x[:columns], target), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_a_vision_encoder_of_a_length_that_32_does_not_divide(name: str, target: str) -> None:
    weights, x = make(name, 150, 50, 4304)
    wanted = expected(weights, name, x)
    for columns in (1, 7, 50):
        assert_close(multiply(weights, name, x[:columns], target), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_as_many_columns_as_a_long_prompt_has(name: str, target: str) -> None:
    weights, x = make(name, 40, 513, 256)
    wanted = expected(weights, name, x)
    for columns in (511, 513):
        assert_close(multiply(weights, name, x[:columns], target), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_a_column_does_not_depend_on_its_neighbours(name: str, target: str) -> None:
    """Small batches: the same sums in the same order, so that drafted tokens are verified exactly."""
    weights, x = make(name, 50, 8, 1000)
    alone = multiply(weights, name, x[:1], target)
    for columns in range(2, 9):
        assert (multiply(weights, name, x[:columns], target)[0] == alone[0]).all()


@pytest.mark.parametrize("columns", [1, 40])
def test_nan_and_infinity_reach_their_column_alone(columns: int, target: str) -> None:
    for name in FORMATS:
        weights, x = make(name, 20, columns + 2, 100)
        x[0, 99], x[1, 3] = np.nan, np.inf
        found = multiply(weights, name, x, target)
        assert np.isnan(found[0]).all()
        assert not np.isfinite(found[1]).any()
        assert np.isfinite(found[2:]).all()


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(FORMATS),
    rows=st.integers(1, 140),
    columns=st.integers(1, 50),
    k=st.integers(1, 1500),
    scale=st.floats(-4, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_targets_agree(name: str, rows: int, columns: int, k: int, scale: float, seed: int) -> None:
    weights, x = make(name, rows, columns, k, seed)
    x *= np.float32(10**scale)
    wanted = expected(weights, name, x)
    for target in _native.float_mul_mat_targets():
        assert_close(multiply(weights, name, x, target), wanted)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    gelu=st.booleans(),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_bias_gelu_and_a_summand(rows: int, gelu: bool, scale: float, seed: int) -> None:
    out, bias, summand = np.random.default_rng(seed).standard_normal((3, rows)).astype(np.float32) * np.float32(scale)
    wanted = reference.finish_mul_mat(out, bias, summand, gelu)
    for target in _native.float_mul_mat_targets():
        found = out.copy()
        _native.finish_mul_mat(found, bias, summand, gelu, target)
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=3e-6 * scale)


def test_shapes_that_do_not_match_are_named() -> None:
    weights, x = make("BF16", 4, 2, 256)
    target = _native.float_mul_mat_targets()[0]
    with pytest.raises(ValueError, match="weights"):
        multiply(weights, "F32", x, target)
    with pytest.raises(ValueError, match="out"):
        _native.float_mul_mat(weights, "BF16", x, np.zeros((2, 5), np.float32), target)
    with pytest.raises(ValueError, match="Q4_K"):
        multiply(weights, "Q4_K", x, target)
    with pytest.raises(ValueError, match="no such"):
        multiply(weights, "BF16", x, "no such")
