"""Matmul of IQ2 and IQ3 weights against float64: gguf's dequantization, and activations rounded as ggml does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.paths import ROOT
from qwen35_gguf.ggml_ops import _native, reference
from qwen35_gguf.ggml_ops.reference import grids

Array = np.ndarray[Any, Any]

COLUMNS = [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 33]
TOLERANCE = 2e-6  # of the sum without its signs: the same terms in another order

pytestmark = pytest.mark.unit
needs_kernels = pytest.mark.skipif(not _native.mul_mat_targets(), reason="other processors use ggml's own kernels")


@pytest.fixture(params=_native.mul_mat_targets())
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(name: str, rows: int, columns: int, k: int, seed: int = 0) -> tuple[Array, Array]:
    """Weights of random bytes: entries, signs and scales may have any value. Only d must be finite."""
    random = np.random.default_rng(seed)
    size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    blocks = random.integers(0, 256, (rows, k // 256, size), dtype=np.uint8)
    d = random.uniform(-1, 1, (rows, k // 256, 1)).astype(np.float16)
    blocks[:, :, :2] = d.view(np.uint8)
    return blocks.reshape(rows, -1), random.standard_normal((columns, k)).astype(np.float32)


def multiply(packed: Array, name: str, x: Array, target: str) -> Array:
    out = np.full((len(x), len(packed)), np.nan, np.float32)
    _native.mul_mat(packed, name, np.ascontiguousarray(x), out, target)
    return out


def assert_close(found: Array, packed: Array, name: str, x: Array) -> None:
    activations = reference.dequantize_activations(*reference.quantize_activations(x, name))
    unit = np.eye(x.shape[1], dtype=np.float32)  # rounded to 8 bits exactly: 1 stays 1
    weights = reference.mul_mat(packed, name, unit)
    assert np.isfinite(found).all()
    assert (np.abs(found - activations @ weights) <= TOLERANCE * (np.abs(activations) @ np.abs(weights))).all()


@needs_kernels
@pytest.mark.parametrize("name", grids.TYPES)
@pytest.mark.parametrize(("rows", "k"), [(1, 256), (37, 512), (70, 2304)])
def test_any_number_of_columns_and_rows(name: str, rows: int, k: int, target: str) -> None:
    packed, x = make(name, rows, max(COLUMNS), k)
    for columns in COLUMNS:
        assert_close(multiply(packed, name, x[:columns], target), packed, name, x[:columns])


@needs_kernels
@pytest.mark.parametrize("name", grids.TYPES)
@pytest.mark.parametrize("columns", [1, 9])
def test_extreme_activations_do_not_saturate(name: str, columns: int, target: str) -> None:
    """Every activation is 127 or -127: of one sign, then of a row of weights, where no term cancels another."""
    packed, x = make(name, 33, columns, 512)
    weights = reference.mul_mat(packed, name, np.eye(512, dtype=np.float32))
    for signs in (np.ones(512), -np.ones(512), np.sign(weights[:, 0])):
        x[:] = signs
        assert_close(multiply(packed, name, x, target), packed, name, x)


@needs_kernels
@pytest.mark.parametrize("name", grids.TYPES)
def test_a_column_does_not_depend_on_its_neighbours(name: str, target: str) -> None:
    """Small batches: the same sums in the same order, so that drafted tokens are verified exactly."""
    packed, x = make(name, 50, 5, 1024)
    alone = multiply(packed, name, x[:1], target)
    for columns in (2, 3, 4, 5):
        assert (multiply(packed, name, x[:columns], target)[0] == alone[0]).all()


@needs_kernels
@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(grids.TYPES),
    rows=st.integers(1, 70),
    columns=st.integers(1, 20),
    blocks=st.integers(1, 6),
    scale=st.floats(-8, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_targets_agree(name: str, rows: int, columns: int, blocks: int, scale: float, seed: int) -> None:
    packed, x = make(name, rows, columns, 256 * blocks, seed)
    x *= np.float32(10**scale)
    for target in _native.mul_mat_targets():
        assert_close(multiply(packed, name, x, target), packed, name, x)


@pytest.mark.parametrize("name", grids.TYPES)
def test_packed_grids_hold_what_gguf_reads(name: str) -> None:
    codes, values = grids.codes(name)
    words = grids.pack(codes).astype(int)
    bits = 16 // codes.shape[1]
    for j in range(codes.shape[1]):
        assert (values[(words >> (8 * (j % 2) + bits * (j // 2))) & (2**bits - 1)] == values[codes[:, j]]).all()


def test_the_header_of_grids_is_the_one_that_is_made() -> None:
    header = ROOT / "ggml_ops" / "quantized_matmul" / "grids" / "tables.h"
    assert header.read_text() == grids.header()
