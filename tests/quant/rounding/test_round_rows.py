"""Rounding by moments: the error never rises, and the bytes depend on nothing but the input."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import dequantize

from qwen35_gguf.errors import QuantizationError
from qwen35_gguf.ggml_ops import _native, target, targets
from qwen35_gguf.ggml_ops.reference import moment_rounding as twin
from qwen35_gguf.ggml_ops.reference.rounding import fused
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding.fields import LAYOUTS, unpack
from qwen35_gguf.quant.rounding.round_rows import InputMoments, prepare, round_rows

pytestmark = pytest.mark.unit


def correlated(columns: int, tokens: int = 3000, seed: int = 0) -> np.ndarray:
    """Moments of inputs whose columns correlate, and are of different sizes."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(tokens, columns)) @ (np.eye(columns) + random.normal(size=(columns, columns)) * 0.1)
    x *= np.exp(random.normal(size=columns))
    return (x.T @ x / tokens).astype(np.float32)


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(5, (rows, columns)) * 0.02).astype(np.float32)


def errors(data: np.ndarray, x: np.ndarray, type_: Type, moments: list[InputMoments]) -> np.ndarray:
    """The quadratic error of each row, in float64, of what gguf decodes."""
    off = dequantize(data, type_).astype(np.float64) - x
    total, start = np.zeros(len(x)), 0
    for one in moments:
        part = off[:, start : start + len(one.matrix)]
        total += np.einsum("ij,ij->i", part @ one.matrix.astype(np.float64), part)
        start += len(one.matrix)
    return total


@pytest.mark.parametrize("type_", LAYOUTS)
@pytest.mark.parametrize("full", [False, True])
def test_no_row_is_worse_than_by_importance_alone(type_: Type, full: bool) -> None:
    x, whole = weights(37, 512), correlated(512)
    parts = [whole] if full else [np.ascontiguousarray(whole[:256, :256]), np.ascontiguousarray(whole[256:, 256:])]
    moments = [prepare(part) for part in parts]
    importance = np.diagonal(whole).copy()
    made = round_rows(x, type_, moments, importance)
    old = errors(kernels.quantize_rows(x, type_, importance), x, type_, moments)
    new = errors(made.data, x, type_, moments)
    assert (new <= old * 1.0001).all()
    assert new.sum() < 0.9 * old.sum()
    np.testing.assert_allclose([made.before, made.after], [old, new], rtol=1e-3)


@pytest.mark.parametrize("type_", [Type.Q2_K, Type.Q6_K, Type.IQ4_XS, Type.Q8_0])
def test_bytes_are_the_same_for_all_threads_and_targets(type_: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    x, whole = weights(149, 768), correlated(768)  # more rows than read the moments together
    expected = None
    for name in targets():
        monkeypatch.setenv("QWEN35_CPU", name)
        assert target() == name
        for threads in (1, 2):
            made = round_rows(x, type_, [prepare(whole, threads)], threads=threads).data
            expected = made if expected is None else expected
            assert (made == expected).all(), (name, threads)


@pytest.mark.parametrize("type_", [Type.Q4_K, Type.Q3_K, Type.IQ4_NL])
def test_the_kernel_takes_the_steps_of_its_twin(type_: Type) -> None:
    x, moments = weights(5, 288 if type_ == Type.IQ4_NL else 512), None
    moments = prepare(correlated(x.shape[1]))
    layout, importance = LAYOUTS[type_], np.diagonal(moments.matrix).copy()
    fields = unpack(kernels.quantize_rows(x, type_, importance), type_)
    parts = (fields.values, fields.d, fields.dmin, fields.scales, fields.mins)
    shaped = [None if part is None else part.reshape(len(x), -1) for part in parts]
    block = x.shape[1] // shaped[1].shape[1]
    shape = twin.Shape(block, layout.group, *layout.quants, *layout.scales, layout.most_min, layout.levels)
    expected, before, after = twin.round_rows(twin.Rows(x, *shaped), shape, moments.matrix, moments.factor, (2, 2, 4))
    rounded = round_rows(x, type_, [moments], importance)
    made = unpack(rounded.data, type_)
    assert (made.values.reshape(len(x), -1) == expected.values).all()
    assert (made.d.reshape(len(x), -1) == expected.d).all()
    assert (made.scales.reshape(len(x), -1) == expected.scales).all()
    assert (rounded.before == before).all()
    assert (rounded.after == after).all()


def test_a_fused_multiply_add_is_rounded_once() -> None:
    """The oracle computes with whole numbers, and rounds a fraction to float32 by itself."""
    random = np.random.default_rng(0)
    a, b, c = (random.normal(size=4000).astype(np.float32) for _ in range(3))
    c *= np.exp2(random.integers(-60, 60, 4000)).astype(np.float32)
    c[:1000] = -(a[:1000] * b[:1000])  # what rounding a * b loses remains
    made = fused(a, b, c)
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    for one, wanted in zip(made, exact, strict=True):
        below, above = np.nextafter(one, np.float32(-np.inf)), np.nextafter(one, np.float32(np.inf))
        off = abs(Fraction(float(one)) - wanted)
        assert off <= min(abs(Fraction(float(below)) - wanted), abs(Fraction(float(above)) - wanted))


@pytest.mark.parametrize("columns", [1, 5, 64, 65, 300])
def test_the_factor_is_that_of_numpy(columns: int) -> None:
    h = correlated(columns, seed=columns) + np.eye(columns, dtype=np.float32)
    expected = twin.factorize(h)
    _native.factorize(h, 1e-9, 2, target())
    np.testing.assert_allclose(h, expected, rtol=1e-3, atol=1e-4)


def test_zero_weights_and_zero_moments_stay_as_they_are() -> None:
    x = weights(4, 256)
    x[1] = 0
    importance = np.ones(256, np.float32)
    made = round_rows(x, Type.Q4_K, [prepare(np.zeros((256, 256), np.float32))], importance)
    assert (made.data == kernels.quantize_rows(x, Type.Q4_K, importance)).all()
    assert not dequantize(round_rows(x, Type.Q4_K, [prepare(correlated(256))]).data, Type.Q4_K)[1].any()


def test_moments_of_another_width_are_refused() -> None:
    with pytest.raises(QuantizationError, match="moments are 256 wide, the rows have 512 columns"):
        round_rows(weights(1, 512), Type.Q4_K, [prepare(correlated(256))])
