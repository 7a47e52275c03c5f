"""Which type for which tensor, so that a size is kept and the sum of what each costs is least.

This is the multiple-choice knapsack problem. Relaxed by a price of a byte, each tensor chooses alone; the best price
gives a bound below which no assignment can be. From there states (bytes, cost) are built tensor by tensor, and those
that the bound rules out are dropped. What remains is exact unless there are too many states; the gap says how far from
the best it can be at most.

Source: H. Kellerer, U. Pferschy, D. Pisinger, Knapsack Problems (2004), chapter 11.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

MOST_STATES = 20_000
BISECTIONS = 200

Choice = TypeVar("Choice")


@dataclass(frozen=True)  # a NamedTuple can be generic from Python 3.11 on
class Option(Generic[Choice]):
    """One way to store a tensor: what it is, its bytes, and what it costs."""

    choice: Choice
    size: int
    cost: float


@dataclass(frozen=True)
class Assignment(Generic[Choice]):
    """The choices, by tensor, with the sums of their sizes and costs.

    `gap` bounds from above how much less the best assignment could cost; 0: this one is the best.
    """

    choices: dict[str, Choice]
    size: int
    cost: float
    gap: float


class _State(NamedTuple):
    size: int
    cost: float
    last: int  # option of the last tensor
    before: _State | None


def assign(options: Mapping[str, Sequence[Option[Choice]]], budget: int) -> Assignment[Choice] | None:
    """Choose one option for each tensor, the sum of sizes within `budget` bytes and the sum of costs least.

    Returns None if even the smallest options do not fit.
    """
    names = list(options)
    tables = [_undominated(options[name]) for name in names]
    if sum(table[0].size for table in tables) > budget:
        return None
    price = _price(tables, budget)
    # By the largest spread of relaxed costs last: what is certain comes first, and few states are carried along.
    order = sorted(range(len(tables)), key=lambda i: (len(tables[i]), tables[i][-1].size - tables[i][0].size))
    tables = [tables[i] for i in order]
    best = _greedy(tables, budget, price)
    rest_bound, rest_size = [0.0], [0]  # of the tensors after each
    for table in reversed(tables):
        rest_bound.append(rest_bound[-1] + min(o.cost + price * o.size for o in table))
        rest_size.append(rest_size[-1] + table[0].size)
    rest_bound.reverse()
    rest_size.reverse()
    least = rest_bound[0] - price * budget
    best_cost, best_states, cut = sum(t[i].cost for t, i in zip(tables, best, strict=True)), None, False
    states = [_State(0, 0.0, -1, None)]
    for number, table in enumerate(tables):
        grown = [
            _State(state.size + option.size, state.cost + option.cost, i, state)
            for state in states
            for i, option in enumerate(table)
            if state.size + option.size + rest_size[number + 1] <= budget
            and state.cost + option.cost + price * (state.size + option.size - budget) + rest_bound[number + 1]
            < best_cost
        ]
        states = _pareto(grown)
        if len(states) > MOST_STATES:
            cut = True
            states.sort(key=lambda s: s.cost + price * s.size)
            states = states[:MOST_STATES]
        if not states:
            break
    if states and states[0].before is not None:
        winner = min(states, key=lambda s: s.cost)
        if winner.cost < best_cost:
            best_cost, best_states = winner.cost, winner
    if best_states is not None:
        best = _path(best_states)
    chosen = {names[at]: tables[k][best[k]] for k, at in enumerate(order)}
    return Assignment(
        {name: chosen[name].choice for name in names},
        sum(option.size for option in chosen.values()),
        sum(option.cost for option in chosen.values()),
        max(0.0, best_cost - least) if cut else 0.0,
    )


def _undominated(options: Sequence[Option[Choice]]) -> list[Option[Choice]]:
    """Sort by size, without those that another beats in both."""
    kept: list[Option[Choice]] = []
    for option in sorted(options, key=lambda o: (o.size, o.cost)):
        if not kept or option.cost < kept[-1].cost:
            kept.append(option)
    return kept


def _relaxed(tables: Sequence[Sequence[Option[Choice]]], price: float) -> list[int]:
    return [min(range(len(t)), key=lambda i: (t[i].cost + price * t[i].size, t[i].size)) for t in tables]


def _price(tables: Sequence[Sequence[Option[Choice]]], budget: int) -> float:
    """Find the least price of a byte at which what each tensor chooses alone fits."""

    def fits(price: float) -> bool:
        return sum(t[i].size for t, i in zip(tables, _relaxed(tables, price), strict=True)) <= budget

    if fits(0.0):
        return 0.0
    high = 1e-12
    while not fits(high):
        high *= 4
    low = 0.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _greedy(tables: Sequence[Sequence[Option[Choice]]], budget: int, price: float) -> list[int]:
    """Take the relaxed choices, and spend what is left of the budget where a byte gains most."""
    chosen = _relaxed(tables, price)
    left = budget - sum(t[i].size for t, i in zip(tables, chosen, strict=True))
    while True:
        gains = [
            ((t[i].cost - t[j].cost) / (t[j].size - t[i].size), k, j)
            for k, (t, i) in enumerate(zip(tables, chosen, strict=True))
            for j in range(i + 1, len(t))
            if t[j].size - t[i].size <= left
        ]
        if not gains:
            return chosen
        _, k, j = max(gains)
        left -= tables[k][j].size - tables[k][chosen[k]].size
        chosen[k] = j


def _pareto(states: list[_State]) -> list[_State]:
    states.sort(key=lambda s: (s.size, s.cost))
    kept: list[_State] = []
    for state in states:
        if not kept or state.cost < kept[-1].cost:
            kept.append(state)
    return kept


def _path(state: _State) -> list[int]:
    found: list[int] = []
    current: _State | None = state
    while current is not None and current.before is not None:
        found.append(current.last)
        current = current.before
    return found[::-1]


def smallest(options: Mapping[str, Sequence[Option[Choice]]], limit: float) -> Assignment[Choice] | None:
    """Find the smallest assignment whose cost is at most `limit`; None if no assignment is that good.

    The budget is searched: the least cost falls as it grows.
    """
    tables = [_undominated(list(found)) for found in options.values()]
    low, high = sum(t[0].size for t in tables), sum(t[-1].size for t in tables)
    best = assign(options, high)
    if best is None or best.cost > limit:
        return None
    sizes = range(low, high + 1)
    at = bisect.bisect_left(
        sizes, True, key=lambda size: (found := assign(options, size)) is not None and found.cost <= limit
    )
    return assign(options, sizes[at])
