"""What a depth gives and costs, by an exact count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.engine.drafts.draft_depth import best_depth, expected_tokens, speed_up

pytestmark = pytest.mark.unit

COSTS = st.lists(st.floats(1e-3, 1.0), min_size=5, max_size=5).map(sorted)
RATES = st.lists(st.floats(0, 1), min_size=4, max_size=4)


def test_expected_tokens_are_the_mean_of_a_simulation() -> None:
    rng = np.random.default_rng(0)
    acceptance = [0.9, 0.6, 0.7, 0.2]
    for depth in range(5):
        right = rng.random((20_000, depth)) < acceptance[:depth]
        mean = np.mean(1 + np.logical_and.accumulate(right, axis=1).sum(axis=1))
        assert expected_tokens(acceptance, depth)[depth] == pytest.approx(mean, rel=0.02)


@given(COSTS, st.floats(1e-4, 0.5), RATES)
def test_the_best_depth_is_the_fastest(verify: list[float], draft: float, acceptance: list[float]) -> None:
    best = best_depth(verify, draft, acceptance)
    rates = [speed_up(verify, draft, acceptance, depth) for depth in range(5)]
    assert rates[best] == max(rates) >= 1.0
