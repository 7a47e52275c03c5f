"""The quantizer facade against gguf's own Python quantizers, over dtypes, threads and bad input."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import QuantizationError
from qwen35_gguf.quant import kernels


def weights(rows: int, columns: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * scale).astype(np.float32)


@pytest.mark.unit
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    blocks=st.integers(1, 4),
    scale=st.sampled_from([1e-3, 1, 50]),
)
@pytest.mark.parametrize(
    "type_", [Type.Q8_0, Type.Q4_0, Type.Q5_1, Type.BF16, Type.F16, Type.F32], ids=lambda t: t.name
)
def test_packed_bytes_equal_the_gguf_package(type_: Type, seed: int, rows: int, blocks: int, scale: float) -> None:
    x = weights(rows, 32 * blocks, seed, scale)
    packed = kernels.quantize_rows(x, type_)
    np.testing.assert_array_equal(packed, quants.quantize(x, type_).view(np.uint8).reshape(rows, -1))
    assert packed.shape == (rows, kernels.row_bytes(type_, 32 * blocks))


@pytest.mark.parametrize(
    "type_", [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_XS], ids=lambda t: t.name
)
def test_unpacking_equals_the_gguf_package(type_: Type) -> None:
    packed = kernels.quantize_rows(weights(7, 512), type_)
    np.testing.assert_allclose(kernels.dequantize(packed, type_, 512), quants.dequantize(packed, type_), rtol=1e-6)


@pytest.mark.unit
@pytest.mark.parametrize("threads", [1, 2, 5, 0])
def test_threads_and_leading_dimensions_do_not_change_a_byte(threads: int) -> None:
    x = weights(3000, 256).reshape(3, 1000, 256)
    expected = kernels.quantize_rows(x.reshape(-1, 256), Type.Q4_K)
    np.testing.assert_array_equal(kernels.quantize(x, "q4_k", threads=threads), expected)


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_input_is_what_it_is_as_float32(dtype: type) -> None:
    x = weights(4, 256).astype(dtype)
    np.testing.assert_array_equal(
        kernels.quantize_rows(x, Type.Q6_K), kernels.quantize_rows(x.astype(np.float32), Type.Q6_K)
    )


@pytest.mark.unit
def test_strided_rows_are_packed_as_their_copy() -> None:
    x = weights(8, 512)[::2, 128:384]
    np.testing.assert_array_equal(kernels.quantize_rows(x, Type.Q4_K), kernels.quantize_rows(x.copy(), Type.Q4_K))


@pytest.mark.unit
def test_importance_changes_the_result() -> None:
    x, importance = weights(4, 256), np.linspace(0.01, 9, 256, dtype=np.float32)
    assert not np.array_equal(kernels.quantize_rows(x, Type.Q4_K), kernels.quantize_rows(x, Type.Q4_K, importance))


@pytest.mark.unit
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type_", [Type.Q4_K, Type.BF16, Type.F32], ids=lambda t: t.name)
def test_non_finite_weights_are_located(type_: Type, value: float) -> None:
    x = weights(4, 256)
    x[2, 17] = value
    with pytest.raises(QuantizationError, match=r"1 non-finite weights .* row 2, column 17"):
        kernels.quantize_rows(x, type_)


@pytest.mark.unit
def test_what_a_type_cannot_hold_is_refused() -> None:
    with pytest.raises(QuantizationError, match="beyond what F16 can hold"):
        kernels.quantize_rows(weights(1, 32, scale=1e6), Type.F16)
    with pytest.raises(QuantizationError, match="overflow the scales of Q8_0"):
        kernels.quantize_rows(weights(1, 32, scale=1e9), Type.Q8_0)
    with pytest.raises(QuantizationError, match="whole blocks of 256"):
        kernels.quantize_rows(weights(1, 288), Type.Q4_K)
    with pytest.raises(QuantizationError, match="needs an importance matrix"):
        kernels.quantize_rows(weights(1, 256), Type.IQ2_XS)
    with pytest.raises(QuantizationError, match="importance has shape"):
        kernels.quantize_rows(weights(1, 256), Type.Q4_K, np.ones(8, np.float32))
