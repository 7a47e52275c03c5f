"""Where a prompt differs from what is known, if it comes back to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.engine.forest.divergence import SAME, WINDOW, Divergence, find_divergence

pytestmark = pytest.mark.unit

START = 1


def test_a_change_is_found_with_its_message() -> None:
    known = [START, *range(10, 30), START, *range(40, 80)]
    given_ = [*known[:30], 100, 101, *known[33:]]
    assert find_divergence(known, given_, 30, START) == Divergence(30, 2, 21, tuple(known[30:33]), (100, 101))


def test_what_only_begins_alike_is_no_change() -> None:
    assert find_divergence([1, *range(10, 50)], [1, *range(60, 99)], 1, START) is None
    assert find_divergence([], [1], 0, START) is None


@given(
    st.lists(st.integers(2, 500), max_size=40),
    st.lists(st.integers(1000, 2000), min_size=1, max_size=WINDOW // 2),
    st.lists(st.integers(3000, 4000), max_size=WINDOW // 2),
)
def test_any_replaced_span_is_found(before: list[int], old: list[int], new: list[int]) -> None:
    after = list(range(5000, 5000 + 2 * SAME))
    found = find_divergence([*before, *old, *after], [*before, *new, *after], len(before), START)
    assert found == Divergence(len(before), 0, 0, tuple(old), tuple(new))
