"""Measure what steps and drafts cost on this machine, when a model is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from qwen35_gguf.runtime.engine.drafts.mtp import Drafter, draft
from qwen35_gguf.runtime.engine.drafts.row_costs import ALL, RowCosts, row_counts
from qwen35_gguf.runtime.llama.context import Context

REPEATS, LONG = 6, 0.05  # of what is timed, and seconds after which two times are enough


class MeasuredCosts(NamedTuple):
    """Seconds of the parts of a step.

    Attributes:
        verify: of 1, 2, ... tokens of the main model in one call.
        draft: of one token of the MTP head, with all rows of the output matrix; 0 without a head.
        rows: what fewer rows cost; None without a head, and where the installed llama.cpp reads all rows.

    """

    verify: list[float]
    draft: float
    rows: RowCosts | None


def measure_costs(main: Context, drafter: Drafter | None, max_depth: int, n_seq: int = 1) -> MeasuredCosts:
    """Time steps of some tokens and drafts, on empty contexts, which are empty afterwards; drafts then read all rows.

    The fewest, two, and the most tokens of one sequence, and the most of all of them are timed, and the best of several
    times counts; the others are interpolated. Drafts are timed with the fewest rows and with all. Each is timed once
    more after the others, since a machine that was busy for a while would make some look dear beside others.

    Args:
        main: of the main model.
        drafter: of the MTP head; None without one.
        max_depth: the most drafts of a step.
        n_seq: sequences that take a step together; `verify` has (1 + max_depth) * n_seq entries.

    """
    most = (1 + max_depth) * n_seq

    def step(size: int) -> None:
        main.evaluate([0] * size, 0, outputs=min(size, 1 + max_depth))
        main.logits(-1)

    sizes = sorted({1, 2, 1 + max_depth, most})
    best = dict.fromkeys(sizes, float("inf"))
    drafts = dict.fromkeys(_rows_to_time(main, drafter), float("inf"))
    for repeats in (REPEATS, 1):
        for size in sizes:
            best[size] = min(best[size], _seconds(main.clear, partial(step, size), repeats))
        if drafter is None:
            continue
        for rows, known in drafts.items():
            drafter.head.read_rows(rows)
            # The first call with other rows makes the graph anew: one call would time that.
            drafts[rows] = min(known, _draft_seconds(drafter, most, REPEATS))
    main.clear()
    verify = [float(x) for x in np.interp(np.arange(most) + 1, sizes, [best[size] for size in sizes])]
    if not drafts:
        return MeasuredCosts(verify, 0.0, None)
    share = min(1.0, min(drafts.values()) / drafts[ALL])
    return MeasuredCosts(verify, drafts[ALL], RowCosts(main.model.n_vocab, share) if len(drafts) > 1 else None)


def _rows_to_time(main: Context, drafter: Drafter | None) -> list[int]:
    """Return the numbers of rows, all of them last."""
    if drafter is None:
        return []
    return [row_counts(main.model.n_vocab)[0], ALL] if drafter.head.can_read_fewer_rows else [ALL]


def _draft_seconds(drafter: Drafter, pos: int, repeats: int) -> float:
    hidden = np.ones((pos, drafter.head.model.n_embd), np.float32)

    def begin() -> None:
        drafter.clear()
        drafter.sync([0] * pos, 0, hidden)

    once = _seconds(begin, lambda: draft([drafter], [0], [pos], 1), repeats)
    drafter.clear()
    return once


def _seconds(prepare: Callable[[], object], work: Callable[[], object], repeats: int) -> float:
    """Return the best of 2 times, and of more if they are short: a GPU replays the third call of a kind and later ones.

    What it replays costs half as much, or less, in a small model.
    """
    best, begun = float("inf"), time.perf_counter()
    for number in range(repeats):
        if number > 1 and time.perf_counter() - begun > LONG:
            break
        prepare()
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
