"""A chunk is as large as answers can wait for, by what chunks have cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.engine.chunk_size import FIRST, LEAST, ChunkSize

pytestmark = pytest.mark.unit


def learned(fixed: float, row: float, *, max_gap: float = 0.25, n_batch: int = 512, step: float = 0.05) -> ChunkSize:
    """Let one learn from a machine on which a chunk of n rows takes `fixed + n * row` seconds."""
    size = ChunkSize(max_gap, n_batch)
    for _ in range(30):
        rows = max(LEAST, size.rows(step))
        size.record(rows, fixed + rows * row)
    return size


@given(st.floats(0.001, 0.1), st.floats(1e-5, 5e-3))
def test_what_is_chosen_keeps_the_bound_and_uses_it(fixed: float, row: float) -> None:
    rows = learned(fixed, row).rows(0.05)
    assert not rows or rows <= 2 * LEAST or 0.05 + fixed + rows * row <= 0.25
    if fixed < 0.05:
        assert rows >= min(512, 0.5 * (0.8 * 0.25 - 0.05 - fixed) / row)


def test_the_first_chunk_is_small_and_no_chunk_is_larger_than_a_call() -> None:
    assert ChunkSize(0.25, 512).rows(0.0) == FIRST
    assert ChunkSize(0.25, 16).rows(0.0) == 16
    assert learned(0.0, 1e-7).rows(0.0) == 512


def test_a_machine_that_gets_slower_is_noticed_soon() -> None:
    size = learned(0.01, 1e-3)
    before = size.rows(0.05)
    for _ in range(8):
        rows = max(LEAST, size.rows(0.05))
        size.record(rows, 0.04 + rows * 4e-3)
    assert size.rows(0.05) < before / 2.5


def test_nothing_more_fits_where_the_time_is_used_up() -> None:
    assert learned(0.03, 1e-3).rows(0.24) == 0


def test_where_times_vary_more_is_left_free() -> None:
    steady, varying = ChunkSize(0.25, 512), ChunkSize(0.25, 512)
    for number in range(40):
        steady.record(40, 0.15)
        varying.record(40, 0.15 * (0.8 if number % 2 else 1.2))
    assert varying.rows(0.05) < 0.85 * steady.rows(0.05)
