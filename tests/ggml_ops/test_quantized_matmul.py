"""Matmul of quantized weights against float64: gguf's dequantization, and activations rounded as ggml rounds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qwen35_gguf import quant
from qwen35_gguf.ggml_ops import _native, reference

Array = np.ndarray[Any, Any]

# Bytes of a block that make all its weights zero, although its scales are not.
ZEROS = {
    "Q4_0": [0, 0x3C, *[0x88] * 16],
    "Q5_0": [0, 0x3C, *[0xFF] * 4, *[0] * 16],
    "Q8_0": [0, 0x3C, *[0] * 32],
}
# Where the bytes of a block are that may have any value (d and dmin may not), and how many bytes it has.
BLOCKS = {
    "Q4_0": ((2, 18), 18),
    "Q4_1": ((4, 20), 20),
    "Q5_0": ((2, 22), 22),
    "Q5_1": ((4, 24), 24),
    "Q8_0": ((2, 34), 34),
    "IQ4_NL": ((2, 18), 18),
    "Q2_K": ((0, 80), 84),
    "Q3_K": ((0, 108), 110),
    "Q4_K": ((4, 144), 144),
    "Q5_K": ((4, 176), 176),
    "Q6_K": ((0, 208), 210),
    "IQ4_XS": ((2, 136), 136),
}
FORMATS = list(BLOCKS)
OF_32 = sorted(reference.BLOCKS_OF_32)
COLUMNS = [*range(1, 14), 31, 33]
TOLERANCE = 2e-6  # of the sum without its signs: the same terms in another order

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not _native.mul_mat_targets(), reason="other processors use ggml's own kernels"),
]


@pytest.fixture(params=_native.mul_mat_targets())
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def multiply(packed: Array, name: str, x: Array, target: str) -> Array:
    out = np.full((len(x), len(packed)), np.nan, np.float32)
    _native.mul_mat(packed, name, x, out, target)
    return out


def expected(packed: Array, name: str, x: Array) -> tuple[Array, Array]:
    """Return the matmul, and the sum of magnitudes that rounding errors are relative to."""
    weights = dequantize(packed, GGMLQuantizationType[name]).astype(np.float64)
    activations = reference.dequantize_activations(*reference.quantize_activations(x, name))
    return reference.mul_mat(packed, name, x), np.abs(activations) @ np.abs(weights.T)


def make(name: str, rows: int, columns: int, k: int, seed: int = 0) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    weights = random.standard_normal((rows, k)).astype(np.float32)
    return quant.quantize(weights, name), random.standard_normal((columns, k)).astype(np.float32)


def assert_close(found: Array, wanted: tuple[Array, Array]) -> None:
    matmul, magnitude = (array[: len(found)] for array in wanted)
    assert np.isfinite(found).all()
    assert (np.abs(found - matmul) <= TOLERANCE * magnitude).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rows", "k"), [(1, 256), (37, 512), (70, 2304)])
def test_any_number_of_columns_and_rows(name: str, rows: int, k: int, target: str) -> None:
    packed, x = make(name, rows, max(COLUMNS), k)
    wanted = expected(packed, name, x)
    for columns in COLUMNS:
        assert_close(multiply(packed, name, x[:columns], target), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_as_many_columns_as_a_long_prompt_has(name: str, target: str) -> None:
    packed, x = make(name, 40, 513, 256)
    wanted = expected(packed, name, x)
    for columns in (511, 513):
        assert_close(multiply(packed, name, x[:columns], target), wanted)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("columns", [1, 9])
def test_extreme_weights_do_not_saturate(name: str, columns: int, target: str) -> None:
    """Every byte of the file at its largest, against activations that are all at 127 or -127."""
    (first, last), size = BLOCKS[name]
    for fill in (0xFF, 0x7F, 0x80, 0x00):
        packed, x = make(name, 33, columns, 512)
        packed.reshape(-1, size)[:, first:last] = fill
        if name == "Q8_0":
            packed.reshape(-1, size)[:, 2] = 127  # as every block has one
        if name in ("Q4_K", "Q5_K"):
            packed.reshape(-1, size)[:, 4:16] = 0xFF  # scales and mins
        for sign in (1, -1):
            x[:] = np.where(np.arange(512) % 3 == 0, -sign, sign)
            assert_close(multiply(packed, name, x, target), expected(packed, name, x))


@pytest.mark.parametrize("name", FORMATS)
def test_every_bit_of_a_block_counts(name: str, target: str) -> None:
    """Random bytes, all but d and dmin: as no quantizer writes them, but as a file may have them."""
    (first, last), size = BLOCKS[name]
    packed, x = make(name, 40, 7, 768)
    random = np.random.default_rng(2)
    packed.reshape(-1, size)[:, first:last] = random.integers(0, 256, (packed.size // size, last - first))
    wanted = expected(packed, name, x)
    for columns in (1, 7):
        assert_close(multiply(packed, name, x[:columns], target), wanted)


@pytest.mark.parametrize("name", ZEROS)
def test_weights_of_zero_add_nothing(name: str, target: str) -> None:
    """Their bytes are the offset: it must meet the integers that activations are rounded to, not a sum of floats."""
    kind = GGMLQuantizationType[name]
    packed = np.tile(np.array(ZEROS[name], np.uint8), (17, 2048 // GGML_QUANT_SIZES[kind][0]))
    assert not dequantize(packed, kind).any()
    x = np.repeat(np.random.default_rng(0).random((9, 64), np.float32), 32, axis=1)
    for columns in (1, 4, 9):
        assert not multiply(packed, name, x[:columns], target).any()


@pytest.mark.parametrize("name", OF_32)
@pytest.mark.parametrize("k", [32, 224, 288, 1056])
def test_rows_may_end_within_a_super_block(name: str, k: int, target: str) -> None:
    packed, x = make(name, 35, 8, k)
    wanted = expected(packed, name, x)
    for columns in (1, 3, 8):
        assert_close(multiply(packed, name, x[:columns], target), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_among_the_activations(name: str, target: str) -> None:
    packed, x = make(name, 5, 3, 512)
    x[0] = 0
    x[1, :256] = 0
    found = multiply(packed, name, x, target)
    assert (found[0] == 0).all()
    assert_close(found, expected(packed, name, x))


@pytest.mark.parametrize("name", FORMATS)
def test_a_column_does_not_depend_on_its_neighbours(name: str, target: str) -> None:
    """Small batches: the same sums in the same order, so that drafted tokens are verified exactly."""
    most = 8 if target == "avx512vnni" else 5
    packed, x = make(name, 50, most, 1024)
    alone = multiply(packed, name, x[:1], target)
    for columns in range(2, most + 1):
        assert (multiply(packed, name, x[:columns], target)[0] == alone[0]).all()


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(FORMATS),
    rows=st.integers(1, 70),
    columns=st.integers(1, 20),
    blocks=st.integers(1, 20),
    scale=st.floats(-8, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_targets_agree(name: str, rows: int, columns: int, blocks: int, scale: float, seed: int) -> None:
    packed, x = make(name, rows, columns, 256 * blocks, seed)
    x *= np.float32(10**scale)
    # One scale of 32 activations is FP16, and so is their sum beside mins, in ggml as here: beyond its range there
    # is nothing to compare with.
    assume(name not in reference.BLOCKS_OF_32 or np.abs(x).max() / 127 <= np.finfo(np.float16).max)
    sums = np.abs(x).reshape(-1, 32).sum(axis=1)
    assume(name not in ("Q4_1", "Q5_1") or sums.max() <= 0.8 * np.finfo(np.float16).max)
    wanted = expected(packed, name, x)
    for target in _native.mul_mat_targets():
        assert_close(multiply(packed, name, x, target), wanted)


def test_shapes_that_do_not_match_are_named() -> None:
    packed, x = make("Q4_K", 4, 2, 256)
    target = _native.mul_mat_targets()[0]
    with pytest.raises(ValueError, match="weights"):
        multiply(packed, "Q5_K", x, target)
    with pytest.raises(ValueError, match="out"):
        _native.mul_mat(packed, "Q4_K", x, np.zeros((2, 5), np.float32), target)
    with pytest.raises(ValueError, match="TQ1_0"):
        multiply(packed, "TQ1_0", x, target)
    with pytest.raises(ValueError, match="no such"):
        multiply(packed, "Q4_K", x, "no such")
