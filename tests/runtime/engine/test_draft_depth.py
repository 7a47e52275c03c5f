"""Which draft depth is chosen: the fastest by an exact count, soon, and at a loss of 2 % at most while trying."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.engine.draft_depth import DepthTuner, best_depth, expected_tokens, speed_up

pytestmark = pytest.mark.unit

COSTS = st.lists(st.floats(1e-3, 1.0), min_size=5, max_size=5).map(sorted)
RATES = st.lists(st.floats(0, 1), min_size=4, max_size=4)


def steps(rng: np.random.Generator, acceptance: list[float], depth: int) -> int:
    """How many drafts of a step are right."""
    taken = 0
    while taken < depth and rng.random() < acceptance[taken]:
        taken += 1
    return taken


def test_expected_tokens_are_the_mean_of_a_simulation() -> None:
    rng = np.random.default_rng(0)
    acceptance = [0.9, 0.6, 0.7, 0.2]
    for depth in range(5):
        mean = np.mean([1 + steps(rng, acceptance, depth) for _ in range(20_000)])
        assert expected_tokens(acceptance, depth) == pytest.approx(mean, rel=0.02)


@given(COSTS, st.floats(1e-4, 0.5), RATES)
def test_the_best_depth_is_the_fastest(verify: list[float], draft: float, acceptance: list[float]) -> None:
    best = best_depth(verify, draft, acceptance)
    rates = [speed_up(verify, draft, acceptance, depth) for depth in range(5)]
    assert rates[best] == max(rates) >= 1.0


def simulate(verify: list[float], draft: float, acceptance: list[float], count: int, seed: int = 0) -> float:
    """Return how many times as fast as without drafts a tuned generation of `count` tokens is."""
    rng = np.random.default_rng(seed)
    tuner = DepthTuner(4)
    tuner.measured([cost * 1.2 for cost in verify], draft * 0.8)  # measured with an error
    seconds, tokens = 0.0, 0
    while tokens < count:
        depth = tuner.next()
        right = steps(rng, acceptance, depth)
        spent, drafting = verify[depth] * rng.normal(1, 0.05), depth * draft
        tuner.record(depth, right, spent, drafting)
        seconds += spent + drafting
        tokens += 1 + right
    return tokens * verify[0] / seconds


@pytest.mark.parametrize("acceptance", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize(
    ("verify", "draft"),
    [
        ([13, 14.5, 17, 20, 23], 5.0),
        ([13, 13.5, 14, 14.5, 15], 1.0),
        ([60, 62, 66, 70, 74], 6),
        ([5, 10, 15, 20, 25], 1),
    ],
    ids=["0.8B", "0.8B, short head", "9B", "compute-bound"],
)
def test_auto_is_nearly_the_best_depth_and_never_slower_than_off(
    verify: list[float], draft: float, acceptance: float
) -> None:
    found = np.mean([simulate(verify, draft, [acceptance] * 4, 2000, seed) for seed in range(5)])
    best = max(speed_up(verify, draft, [acceptance] * 4, depth) for depth in range(5))
    assert found > 0.97
    assert found > 0.93 * best


def test_acceptance_follows_the_text() -> None:
    tuner = DepthTuner(4)
    tuner.measured([10, 10.5, 11, 11.5, 12], 1.0)
    for _ in range(100):
        depth = tuner.next()
        tuner.record(depth, depth, 10 + depth / 2, depth)
    assert tuner.best() == 4
    for _ in range(200):
        depth = tuner.next()
        tuner.record(depth, 0, 10 + depth / 2, depth)
    assert tuner.best() == 0
    for _ in range(400):
        depth = tuner.next()
        tuner.record(depth, depth, 10 + depth / 2, depth)
    assert tuner.best() == 4


def test_an_interruption_does_not_count_as_a_cost() -> None:
    tuner = DepthTuner(2)
    tuner.measured([10, 11, 12], 1.0)
    tuner.record(1, 1, 5000.0, 1.0)
    assert tuner.verify[1] < 13
