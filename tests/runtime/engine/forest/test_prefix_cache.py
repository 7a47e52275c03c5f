"""States are found by their prefix; those are dropped first that are least useful."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.engine.forest.prefix_cache import (
    PrefixCache,
    RecurrentState,
    SequenceState,
    boundaries,
    common_prefix,
)

pytestmark = pytest.mark.unit

ITEMS = st.lists(st.one_of(st.integers(0, 2), st.sampled_from(["a", "b"])), max_size=6)


def state(items: list[int | str], size: int = 100) -> RecurrentState:
    return RecurrentState(items, len(items), len(items), np.zeros(size, np.uint8))


@given(ITEMS, ITEMS)
def test_common_prefix(first: list[int | str], second: list[int | str]) -> None:
    found = common_prefix(first * 700, second * 700)
    assert (first * 700)[:found] == (second * 700)[:found]
    assert (first * 700)[found : found + 1] != (second * 700)[found : found + 1] or found == min(
        len(first) * 700, len(second) * 700
    )


@given(st.lists(ITEMS), ITEMS, st.integers(0, 7))
def test_the_longest_prefix_is_found(known: list[list[int | str]], wanted: list[int | str], limit: int) -> None:
    cache = PrefixCache(1 << 20)
    for items in known:
        cache.add(state(items))
    lengths = [len(items) for items in known if items == wanted[: len(items)] and len(items) <= limit]
    found = cache.recurrent_state(wanted, limit)
    assert (len(found.items) if found else None) == max(lengths, default=None)


@given(st.lists(st.tuples(ITEMS, st.integers(0, 400)), max_size=30))
def test_the_budget_holds(entries: list[tuple[list[int | str], int]]) -> None:
    cache = PrefixCache(1000)
    for items, size in entries:
        cache.add(state(items, size))
        assert cache.n_bytes <= 1000


def test_of_a_conversation_the_middle_goes_first() -> None:
    cache = PrefixCache(4 * state([0] * 5).n_bytes)
    for length in (1, 2, 3, 4):
        cache.use_prefixes([0] * length)
        cache.add(state([0] * length))
    cache.use_prefixes([0] * 5)
    cache.add(state([0] * 5, 300))
    assert cache.recurrent_state([0], 5) is not None
    assert cache.recurrent_state([0] * 4, 4) is not None
    assert len(cache.recurrent_state([0] * 4, 4).items) < 4  # type: ignore[union-attr]


def conversation(number: int, n_cells: int, size: int) -> SequenceState:
    return SequenceState([number] * 4, n_cells, n_cells, np.zeros(size, np.uint8))


def test_of_conversations_the_one_that_costs_least_for_its_bytes_goes_first() -> None:
    cache = PrefixCache(1000)
    cache.add(conversation(1, 4000, 300))
    cache.add(conversation(2, 40, 300))
    cache.add(conversation(3, 400, 300))
    cache.add(conversation(4, 400, 300))
    assert {state.items[0] for state in cache.sequence_states()} == {1, 3, 4}


def test_a_conversation_that_is_not_used_any_more_goes_in_the_end() -> None:
    cache = PrefixCache(1000)
    cache.add(conversation(0, 4000, 300))
    for number in range(1, 40):
        cache.add(conversation(number, 400, 300))
    assert 0 not in {state.items[0] for state in cache.sequence_states()}


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=9))
def test_boundaries_depend_only_on_what_is_before(items: list[int], more: list[int]) -> None:
    longer = [3, *items, *more]
    found = boundaries(longer, 3)
    assert found == [i for i, item in enumerate(longer) if i and item == 3]
    assert [stop for stop in found if stop <= len(items)] == boundaries([3, *items], 3)


def test_long_texts_and_raw_prompts_have_boundaries_of_their_own() -> None:
    assert boundaries([1] * 1500, 3) == [512, 1024, 1499]
    assert boundaries([1] * 9000, 3, 4096) == [4096, 8192, 8999]
    assert boundaries([1], 3) == []
