"""The knapsack against brute force, and against its own bound where there are too many tensors for that."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.quant.search.assignment import Option, assign, smallest

pytestmark = pytest.mark.unit

Table = dict[str, list[Option[int]]]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    count = draw(st.integers(1, 6))
    option = st.tuples(st.integers(1, 40), st.integers(0, 50))
    drawn = [draw(st.lists(option, min_size=1, max_size=4)) for _ in range(count)]
    return {f"t{k}": [Option(i, size, cost / 7) for i, (size, cost) in enumerate(t)] for k, t in enumerate(drawn)}


def brute_force(table: Table, budget: int) -> float | None:
    costs = [
        sum(o.cost for o in chosen)
        for chosen in itertools.product(*table.values())
        if sum(o.size for o in chosen) <= budget
    ]
    return min(costs, default=None)


@settings(max_examples=400, deadline=None)
@given(table=tables(), budget=st.integers(0, 200))
def test_no_assignment_is_better(table: Table, budget: int) -> None:
    found, best = assign(table, budget), brute_force(table, budget)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert found.cost == pytest.approx(best)
    assert found.gap == 0
    assert found.size <= budget
    assert set(found.choices) == set(table)
    chosen = [table[name][choice] for name, choice in found.choices.items()]
    assert (sum(o.size for o in chosen), sum(o.cost for o in chosen)) == (found.size, pytest.approx(found.cost))


@settings(max_examples=100, deadline=None)
@given(table=tables(), limit=st.floats(0, 40))
def test_no_smaller_assignment_is_good_enough(table: Table, limit: float) -> None:
    found = smallest(table, limit)
    sizes = [
        sum(o.size for o in chosen)
        for chosen in itertools.product(*table.values())
        if sum(o.cost for o in chosen) <= limit - 1e-9
    ]
    if found is None:
        assert not sizes
    else:
        assert found.cost <= limit
        assert found.size <= min(sizes, default=found.size)


def test_a_model_of_five_hundred_tensors_is_solved_within_a_thousandth() -> None:
    r = np.random.default_rng(0)
    bits = [2.6, 3.4, 4.5, 5.5, 6.6, 8.5]
    table = {}
    for number in range(500):
        weights, sensitivity = int(r.integers(1, 60)) * 65536, float(r.lognormal(-6, 1.5))
        table[str(number)] = [Option(i, int(weights * b / 8), sensitivity * 4.0**-b) for i, b in enumerate(bits)]
    total = sum(options[2].size for options in table.values())
    found = assign(table, total)
    assert found is not None
    assert 0.999 * total < found.size <= total
    assert found.gap <= 1e-3 * found.cost
    uniform = sum(options[2].cost for options in table.values())
    assert found.cost < 0.6 * uniform
