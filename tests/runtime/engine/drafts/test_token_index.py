"""Where tokens came before is found as by a search through all of them, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.engine.drafts.token_index import MAX_MATCH, NOTHING, TokenIndex

pytestmark = pytest.mark.unit

TOKENS = st.lists(st.integers(0, 3), min_size=2, max_size=60)


def longest(tokens: list[int], tail: list[int]) -> int:
    """The most tokens at the end of `tail` that come in `tokens` with something behind them."""
    best = 0
    for place in range(2, len(tokens)):
        length = 0
        while length < min(place, len(tail), MAX_MATCH) and tokens[place - 1 - length] == tail[-1 - length] >= 0:
            length += 1
        best = max(best, length)
    return best if best >= 2 else 0


@given(TOKENS, TOKENS, st.integers(0, 60))
def test_the_longest_match_is_found(tokens: list[int], tail: list[int], cut: int) -> None:
    index = TokenIndex(1000)
    index.extend(tokens[:cut])
    index.extend(tokens[cut:])
    if len(tokens) <= 24:  # all places are tried
        place, length = index.find(tail)
        assert length == longest(tokens, tail)
        assert tokens[place - length : place] == tail[len(tail) - length :] if length else not place


@given(st.lists(st.integers(-1, 300_000), max_size=400), st.integers(0, 400))
def test_many_tokens_are_indexed_like_single_ones(tokens: list[int], cut: int) -> None:
    one, other = TokenIndex(1 << 12), TokenIndex(1 << 12)
    one.extend(tokens[:cut])
    one.extend(tokens[cut:])
    for token in tokens:
        other.extend([token])
    assert one.tokens == other.tokens
    assert one._before == other._before
    assert one._newest == other._newest


def test_memory_is_bounded() -> None:
    index = TokenIndex(100)
    for start in range(0, 5000, 70):
        index.extend(range(start, start + 70))
    assert 100 <= len(index.tokens) <= 200
    assert len(index) == 5040
    assert index.dropped + len(index.tokens) == 5040
    place, length = index.find([4800, 4801, 4802, 5000, 5001, 5002])
    assert length == 3
    assert index.tokens[place] == 5003
    assert index.find([10, 11, 12]) == (0, 0)


def test_nothing_is_never_drafted_or_matched() -> None:
    index = TokenIndex(100)
    index.extend([5, 6, NOTHING, 7, 5, 6])
    assert index.following(1, 5) == [6]
    assert index.find([NOTHING, 7]) == (0, 0)


def test_what_repeats_itself_goes_on_beyond_the_end() -> None:
    index = TokenIndex(100)
    index.extend([1, 2, 3, 1, 2, 3, 1, 2, 3])
    place, _ = index.find([1, 2, 3, 1, 2, 3])
    assert index.following(place, 7) == [1, 2, 3, 1, 2, 3, 1]


def test_of_equal_matches_the_next_one_is_preferred() -> None:
    index = TokenIndex(100)
    index.extend([1, 2, 10, 1, 2, 20, 1, 2, 30, 1, 2, 40])
    places = [index.tokens[index.find([9, 1, 2], near)[0]] for near in (0, 4, 7, 11)]
    assert places == [10, 20, 30, 40]
