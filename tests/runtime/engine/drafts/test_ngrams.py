"""Drafts come from the prompt, the answer so far and earlier answers, and follow a text that is being rewritten."""

from __future__ import annotations

import pytest

from qwen35_gguf.runtime.engine.drafts.acceptance import LENGTHS, MEMORY, Rate, Rates
from qwen35_gguf.runtime.engine.drafts.ngrams import NgramDrafter, add_answer
from qwen35_gguf.runtime.engine.drafts.token_index import TokenIndex

pytestmark = pytest.mark.unit


def drafted(drafter: NgramDrafter, count: int = 4) -> list[int]:
    found = drafter.draft(count, Rates.begin(4))
    return found.tokens if found is not None else []


def test_what_followed_in_the_prompt_is_drafted() -> None:
    drafter = NgramDrafter([10, 11, 12, 13, 14, 15, 90, 91], TokenIndex(100))
    assert drafted(drafter) == []
    drafter.extend([11, 12])
    assert drafted(drafter) == [13, 14, 15, 90]


def test_images_separate_texts() -> None:
    drafter = NgramDrafter([10, 11, 12, "image", 14, 15, 10, 11], TokenIndex(100))
    assert drafted(drafter) == [12]


def test_earlier_answers_are_drafted_from() -> None:
    answers = TokenIndex(100)
    add_answer(answers, [1, 2, 3, 50, 51, 52, 53], 3)
    assert drafted(NgramDrafter([7, 8, 50, 51], answers)) == [52, 53]
    assert drafted(NgramDrafter([7, 8, 2, 3], answers)) == [50, 51, 52, 53]
    add_answer(answers, [60, 61], 1)
    assert drafted(NgramDrafter([7, 8, 52, 53], answers)) == []


@pytest.mark.parametrize(
    "changed",
    [[100], [100, 101], [], [20, 21, 100, 22], [100, 22]],
    ids=["replaced", "replaced by two", "left out", "inserted", "shortened"],
)
def test_behind_a_change_the_text_goes_on(changed: list[int]) -> None:
    text = list(range(10, 40))
    drafter = NgramDrafter(text, TokenIndex(100))
    for token in text[:10]:
        drafter.extend([token])
        drafted(drafter)
    for token in [*changed, 23]:
        drafter.extend([token])
        drafted(drafter)
    assert drafted(drafter) == [24, 25, 26, 27]


def test_the_text_that_is_being_rewritten_is_preferred_to_others() -> None:
    drafter = NgramDrafter([1, 2, 3, 4, 5, 6, 7, 99, 3, 4, 88, 77, 1, 2], TokenIndex(100))
    assert drafted(drafter)[:2] == [3, 4]
    drafter.extend([3, 4])
    assert drafted(drafter)[:2] == [5, 6]


def test_rates_follow_what_comes() -> None:
    rates = Rates.begin(4)
    for _ in range(60):
        rates.add_match(0, 2, [1, 2, 3], [1, 9])
    two, three, four = rates.of_match(0, 2, 3)
    assert two > 0.95
    assert three < 0.05
    assert four == Rates.begin(4).of_match(0, 4, 1)[0]  # nothing was seen of it
    assert rates.of_match(1, 2, 1) == Rates.begin(4).of_match(1, 2, 1)
    rates.add_head([5, 6, 7], [5, 6])
    assert [rate.weight for rate in rates.head] == [3.0, 3.0, 2.0, 2.0]


def test_another_text_begins_with_the_rates_of_the_last_one_and_leaves_them_soon() -> None:
    rate = Rate(0.5)
    for _ in range(100):
        rate.add(True)
    assert rate.weight == MEMORY
    other = rate.copy()
    for _ in range(8):
        other.add(False)
    assert rate.value > 0.95
    assert other.value < 0.3


def test_longer_matches_share_a_class() -> None:
    rates = Rates.begin(4)
    assert rates.of_match(0, 500, 2) == rates.of_match(0, LENGTHS[-1], 2)
