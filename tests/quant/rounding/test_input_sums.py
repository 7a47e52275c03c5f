"""Sums of inputs: weights make up for what is known of an error, and stay where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.quant.rounding import input_sums
from qwen35_gguf.quant.rounding.input_sums import InputSums
from qwen35_gguf.quant.rounding.moments import Kind

COLUMNS, ROWS, CHUNK, CHUNKS = 48, 32, 200, 20


def sums(
    exact: np.ndarray, found: np.ndarray, stream: np.ndarray | None = None, writer: np.ndarray | None = None
) -> InputSums:
    made = InputSums(exact.shape[1], writer)
    for number, start in enumerate(range(0, len(exact), CHUNK)):
        own = slice(start, start + CHUNK)
        part = None if stream is None else stream[own]
        made.add(exact[own], found[own], np.ones(CHUNK, np.float32), part, number % 2)
    return made


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.unit
def test_a_known_change_of_the_input_is_made_up_for() -> None:
    exact, weights = normal(0, CHUNK * CHUNKS, COLUMNS), normal(1, ROWS, COLUMNS)
    change = np.eye(COLUMNS, dtype=np.float32) + 0.1 * normal(2, COLUMNS, COLUMNS) / np.sqrt(COLUMNS)
    found = exact @ change.T
    shift = sums(exact, found).shifts({"w": weights})["w"].astype(np.float32)
    before = np.square(found @ weights.T - exact @ weights.T).sum()
    after = np.square(found @ (weights + shift).T - exact @ weights.T).sum()
    assert after < 0.01 * before


@pytest.mark.unit
def test_a_difference_of_the_stream_is_made_up_for_where_the_input_tells_it() -> None:
    found, weights = normal(0, CHUNK * CHUNKS, COLUMNS), normal(1, ROWS, COLUMNS)
    stream = found @ normal(2, COLUMNS, ROWS) + normal(3, CHUNK * CHUNKS, ROWS)
    shift = sums(found, found, stream, weights).shifts({"w": weights})["w"].astype(np.float32)
    new = normal(4, CHUNK, COLUMNS)
    np.testing.assert_allclose(new @ shift.T, new @ normal(2, COLUMNS, ROWS), atol=1)


@pytest.mark.unit
def test_weights_stay_where_nothing_is_known_of_the_error() -> None:
    found, weights = normal(0, CHUNK * CHUNKS, COLUMNS), normal(1, ROWS, COLUMNS)
    stream = normal(2, CHUNK * CHUNKS, ROWS)
    shift = sums(found, found, stream, weights).shifts({"w": weights})["w"].astype(np.float32)
    assert np.square(shift).mean() < 1e-4  # a quarter of 1 / (CHUNK * CHUNKS), which chance alone would give
    np.testing.assert_array_equal(sums(found, found).shifts({"w": weights})["w"].astype(np.float32), 0)


@pytest.mark.unit
def test_a_writer_is_shifted_as_what_many_weights_read() -> None:
    exact, weights = normal(0, CHUNK * CHUNKS, COLUMNS), normal(1, ROWS, COLUMNS)
    found = exact + 0.1 * exact[:, ::-1]
    one, other = (sums(exact, found, writer=w).shifts({"w": weights})["w"].astype(np.float32) for w in (None, weights))
    np.testing.assert_allclose(one, other, rtol=0.02, atol=1e-3)


@pytest.mark.unit
def test_the_damping_is_chosen_by_some_columns_and_all_are_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, weights = normal(0, CHUNK * CHUNKS, COLUMNS), normal(1, ROWS, COLUMNS)
    found = exact + 0.1 * exact[:, ::-1]
    shifts = []
    for widest in (COLUMNS, COLUMNS // 3):
        monkeypatch.setattr(input_sums, "WIDEST", widest)
        shifts.append(sums(exact, found).shifts({"w": weights})["w"].astype(np.float32))
    np.testing.assert_array_equal(*shifts)


@pytest.mark.unit
def test_several_weights_are_shifted_as_each_would_be_alone() -> None:
    exact = normal(0, CHUNK * CHUNKS, COLUMNS)
    found = exact + 0.1 * exact[:, ::-1]
    both = {"a": normal(1, ROWS, COLUMNS), "b": normal(2, 2 * ROWS, COLUMNS)}
    made = sums(exact, found)
    together = made.shifts(both)
    for name, weights in both.items():
        alone = made.shifts({name: weights})[name].astype(np.float32)
        np.testing.assert_allclose(together[name].astype(np.float32), alone, rtol=0.02, atol=1e-3)


@pytest.mark.unit
def test_sums_are_those_of_the_found_inputs_in_blocks_or_whole() -> None:
    found = normal(0, CHUNK * 2, 300)
    made = sums(normal(1, CHUNK * 2, 300), found)
    whole, blocks = made.entry("w", "full"), made.entry("w", "block")
    np.testing.assert_allclose(whole.sums[0], found.T @ found, rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(blocks.sums[0, 0], whole.sums[0, :256, :256])
    np.testing.assert_array_equal(blocks.sums[0, 1, :44, :44], whole.sums[0, 256:, 256:])
    assert not blocks.sums[0, 1, 44:].any()
    assert (whole.counts, [len(one.matrix) for one in made.prepared("block", 0.4)]) == ([CHUNK * 2], [256, 44])


def test_moments_of_little_text_are_shrunk_more_than_those_of_much() -> None:
    """Needs llama.cpp, which reads back what was quantized."""
    mix = np.eye(256, dtype=np.float32) + normal(5, 256, 256) / 8
    weights = {"w": 0.02 * normal(1, 96, 256)}
    found = [made_of(tokens, mix).shrinking(weights, {"w": Type.Q4_K}, "full") for tokens in (2 * CHUNK, 60 * CHUNK)]
    assert found[0] > found[1]


def made_of(tokens: int, mix: np.ndarray) -> InputSums:
    exact = normal(6, tokens, 256) @ mix
    return sums(exact, exact)


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["full", "block"])
def test_moments_are_the_sum_of_the_products_of_all_tokens(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    monkeypatch.setattr(input_sums, "PANEL", 128)
    found, counts = normal(0, 300, 320), np.random.default_rng(1).random(300).astype(np.float32)
    made = InputSums(320)
    for half in range(2):
        own = slice(half * 150, half * 150 + 150)
        made.add(found[own], found[own], counts[own], None, half)
    whole = (found * counts[:, None]).astype(np.float64).T @ found
    sums = made.entry("x", kind).sums[0]
    if kind == "full":
        np.testing.assert_allclose(sums, whole, rtol=1e-4, atol=1e-3)
    else:
        np.testing.assert_allclose(sums[0], whole[:256, :256], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(sums[1, :64, :64], whole[256:, 256:], rtol=1e-4, atol=1e-3)
