"""Every operation of the table has an inverse, and does to real head layouts what llama.cpp expects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.convert import transforms

pytestmark = pytest.mark.unit

SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=60)
@given(
    axis=st.sampled_from([0, 1]),
    key_heads=st.integers(1, 5),
    per_key=st.integers(1, 4),
    head_dim=st.integers(1, 8),
    offset=st.integers(0, 6),
    other=st.integers(1, 5),
    seed=SEEDS,
)
def test_tiling_is_a_permutation_with_an_inverse(
    axis: int, key_heads: int, per_key: int, head_dim: int, offset: int, other: int, seed: int
) -> None:
    length = offset + key_heads * per_key * head_dim
    shape = (length, other) if axis == 0 else (other, length)
    x = np.random.default_rng(seed).integers(0, 1 << 16, shape).astype(np.uint16)
    op = transforms.tile_value_heads(axis, key_heads, per_key, head_dim, offset)
    y = op.apply(x)
    assert op.shape(x.shape) == y.shape
    np.testing.assert_array_equal(op.invert(y), x)
    np.testing.assert_array_equal(np.sort(y, axis=axis), np.sort(x, axis=axis))


def test_tiling_pairs_value_head_h_with_key_head_h_modulo_key_heads() -> None:
    key_heads, per_key, head_dim = 3, 2, 4
    grouped = np.repeat(np.arange(key_heads), per_key * head_dim)  # each value row labelled with its key head
    tiled = transforms.tile_value_heads(0, key_heads, per_key, head_dim).apply(grouped[:, None])[:, 0]
    np.testing.assert_array_equal(tiled.reshape(-1, head_dim)[:, 0], np.arange(key_heads * per_key) % key_heads)


def test_rows_before_the_value_heads_stay() -> None:
    x = np.arange(6 + 8)[:, None]
    y = transforms.tile_value_heads(0, 2, 2, 2, offset=6).apply(x)[:, 0]
    np.testing.assert_array_equal(y, [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 8, 9, 12, 13])


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, scale=st.sampled_from([1e-3, 0.1, 1.0, 3.0]))
@pytest.mark.parametrize("op", [transforms.plus_one, transforms.neg_exp], ids=lambda op: op.name)
def test_arithmetic_operations_invert_to_f32_rounding(op: transforms.Operation, seed: int, scale: float) -> None:
    x = (np.random.default_rng(seed).standard_normal(64) * scale).astype(np.float32)
    np.testing.assert_allclose(op.invert(op.apply(x)), x, rtol=1e-6, atol=3e-7)


def test_squeeze_inverts_and_reports_its_shape() -> None:
    x = np.random.default_rng(0).standard_normal((6, 1, 4)).astype(np.float32)
    y = transforms.squeeze.apply(x)
    assert y.shape == transforms.squeeze.shape(x.shape) == (6, 4)
    np.testing.assert_array_equal(transforms.squeeze.invert(y), x)
