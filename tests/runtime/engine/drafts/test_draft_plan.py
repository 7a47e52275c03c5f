"""Which drafts are made: the fastest by an exact count, soon, and at a loss of 1 % at most while trying."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.engine.drafts.acceptance import Rates
from qwen35_gguf.runtime.engine.drafts.draft_depth import expected_tokens, speed_up
from qwen35_gguf.runtime.engine.drafts.draft_plan import Chances, Plan, Planner, best_plan
from qwen35_gguf.runtime.engine.drafts.step_costs import StepCosts

pytestmark = pytest.mark.unit

MACHINES = {
    "0.8B": ([13, 14.5, 17, 20, 23], 5.0),
    "0.8B, short head": ([13, 13.5, 14, 14.5, 15], 1.0),
    "9B": ([60, 62, 66, 70, 74], 6),
    "compute-bound": ([5, 10, 15, 20, 25], 1),
}
COSTS = st.lists(st.floats(1e-3, 1.0), min_size=5, max_size=5).map(sorted)
RATES = st.lists(st.floats(0, 1), min_size=4, max_size=4)


class Text:
    """An answer whose drafts are right by chance."""

    def __init__(self, head: float, ngrams: float | None, rng: np.random.Generator) -> None:
        self.rates = Rates.begin(4)
        self.head, self.ngrams, self._rng = head, ngrams, rng

    def chances(self) -> Chances:
        ngrams = self.rates.of_match(0, 3, 4) if self.ngrams is not None else []
        return Chances(ngrams, self.rates.of_head(), self.rates.agree.value, self.rates.agreed.value)

    def step(self, plan: Plan) -> int:
        """Take a step; return its tokens."""
        truth = list(range(10))
        guess = self._drafts(self.head, plan.head)
        match = self._drafts(self.ngrams, 4) if self.ngrams is not None else []
        drafts = guess if plan.head and plan.head >= plan.depth else match
        if match and guess and plan.head < plan.depth and match[0] != guess[0]:
            drafts = guess
        right = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(drafts, truth, strict=False)))
        right = min(right, plan.depth)
        if match:
            self.rates.add_match(0, 3, match, truth[: 1 + right])
        if guess:
            self.rates.add_head(guess, truth[: 1 + right])
        if match and guess:
            self.rates.agree.add(match[0] == guess[0])
            if match[0] == guess[0]:
                self.rates.agreed.add(match[0] == truth[0])
        return 1 + right

    def _drafts(self, rate: float, count: int) -> list[int]:
        return [place if self._rng.random() < rate else -1 for place in range(count)]


def simulate(machine: str, head: float, ngrams: float | None, seed: int, count: int = 1200) -> float:
    """Return how many times as fast as without drafts a planned generation of `count` tokens is."""
    verify, draft = MACHINES[machine]
    rng = np.random.default_rng(seed)
    text = Text(head, ngrams, rng)
    planner = Planner(StepCosts([cost * 1.2 for cost in verify], draft * 0.8))  # measured with an error
    seconds, tokens = 0.0, 0
    while tokens < count:
        plan = planner.next([text.chances()])
        found = text.step(plan)
        spent, drafting = verify[plan.depth] * rng.normal(1, 0.05), plan.head * draft
        planner.record(plan, found, spent, drafting)
        seconds += spent + drafting
        tokens += found
    return tokens * verify[0] / seconds


@pytest.mark.parametrize("acceptance", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("machine", MACHINES)
def test_the_head_drafts_nearly_the_best_depth_and_is_never_slower_than_off(machine: str, acceptance: float) -> None:
    verify, draft = MACHINES[machine]
    found = np.mean([simulate(machine, acceptance, None, seed) for seed in range(3)])
    best = max(speed_up(verify, draft, [acceptance] * 4, depth) for depth in range(5))
    assert found > 0.98
    assert found > 0.93 * best


@pytest.mark.parametrize("head", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("ngrams", [0.0, 0.4, 0.95])
@pytest.mark.parametrize("machine", MACHINES)
def test_both_together_are_nearly_as_fast_as_the_better_one(machine: str, head: float, ngrams: float) -> None:
    verify, draft = MACHINES[machine]
    found = np.mean([simulate(machine, head, ngrams, seed) for seed in range(3)])
    alone = max(speed_up(verify, draft, [head] * 4, depth) for depth in range(5))
    free = max(speed_up(verify, 0.0, [ngrams] * 4, depth) for depth in range(5))
    assert found > 0.98
    assert found > 0.9 * max(alone, free)


@given(COSTS, st.floats(1e-4, 0.5), RATES, RATES, st.integers(1, 5))
def test_the_best_plan_is_the_fastest(
    verify: list[float], draft: float, head: list[float], ngrams: list[float], count: int
) -> None:
    costs = StepCosts(verify, draft)
    plan, rate = best_plan(costs, [Chances(ngrams, head)] * count)
    assert rate >= count / verify[0]
    for depth in range(5):
        assert rate >= (1 - 1e-9) * count * expected_tokens(ngrams, 4)[depth] / verify[depth]
        assert rate >= (1 - 1e-9) * count * expected_tokens(head, 4)[depth] / (verify[depth] + depth * draft)
    assert plan.head in (0, plan.depth, 1)


def test_what_nothing_is_drafted_for_gets_nothing() -> None:
    assert best_plan(StepCosts([1, 1, 1], 0.01), [Chances(), Chances()])[0] == Plan(0)


def test_where_both_agree_the_ngram_goes_on() -> None:
    chances = Chances([0.5, 0.95, 0.95, 0.95], [0.5, 0.1, 0.1, 0.1], agree=0.5, agreed=0.98)
    assert best_plan(StepCosts([10, 14, 18, 22, 26], 0.5), [chances])[0] == Plan(4, 1)


def test_acceptance_follows_the_text() -> None:
    planner = Planner(StepCosts([10, 10.5, 11, 11.5, 12], 1.0))
    text = Text(1.0, None, np.random.default_rng(0))
    for rate, steps, depth in ((1.0, 100, 4), (0.0, 200, 0), (1.0, 900, 4)):
        text.head = rate
        for _ in range(steps):
            plan = planner.next([text.chances()])
            planner.record(plan, text.step(plan), 10 + plan.depth / 2, plan.head)
        assert best_plan(planner.costs, [text.chances()])[0].depth == depth


def test_an_interruption_does_not_count_as_a_cost() -> None:
    costs = StepCosts([10, 11, 12], 1.0)
    costs.record(1, 1, 5000.0, 1.0)
    assert costs.verify[1] < 13


def test_what_a_longer_context_costs_is_added_to_the_other_depths() -> None:
    costs = StepCosts([10, 11, 12], 1.0)
    for _ in range(100):
        costs.record(0, 0, 20.0, 0.0)
    assert costs.verify[0] == pytest.approx(20, abs=0.1)
    assert costs.verify[2] == pytest.approx(22, abs=0.1)


@pytest.mark.parametrize("frozen", ["a probe", "another step"])
def test_a_machine_that_slept_is_tried_as_often_as_before(frozen: str) -> None:
    """A step of an hour neither forbids what is tried for days, nor pays for hours of it."""
    planner = Planner(StepCosts([10, 10.5, 11, 11.5, 12], 1.0))
    text, slept, probes = Text(0.0, None, np.random.default_rng(0)), False, 0
    for number in range(3000):
        plan = planner.next([text.chances()])
        probe = plan != best_plan(planner.costs, [text.chances()])[0]
        seconds = 10 + plan.depth / 2
        if number > 1000 and not slept and probe == (frozen == "a probe"):
            slept, seconds = True, 3_600_000.0
        probes += slept and probe
        planner.record(plan, text.step(plan), seconds, plan.head)
    assert slept
    assert 10 < probes < 120  # of 2,000 steps
    text.head = 1.0
    for _ in range(1200):
        plan = planner.next([text.chances()])
        planner.record(plan, text.step(plan), 10 + plan.depth / 2, plan.head)
    assert best_plan(planner.costs, [text.chances()])[0].depth == 4
