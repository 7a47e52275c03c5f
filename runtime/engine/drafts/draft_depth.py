"""How many tokens are drafted in each step: what a depth gives, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Depth = int | Literal["auto"]

MAX_DEPTH = 4


def depth_limit(depth: Depth) -> int:
    """Return the most tokens that a step drafts."""
    return MAX_DEPTH if depth == "auto" else depth


def expected_tokens(acceptance: Sequence[float], depth: int) -> list[float]:
    """Return the mean number of tokens that steps with 0, 1, ... `depth` drafts give.

    `acceptance[i]` is the probability that draft i is accepted if those before it are; drafts that are missing in it
    are wrong.
    """
    found, part = [1.0], 1.0
    for place in range(depth):
        part *= acceptance[place] if place < len(acceptance) else 0.0
        found.append(found[-1] + part)
    return found


def step_seconds(verify: Sequence[float], draft: float, depth: int) -> float:
    """Return the time of a step: `verify[k]` for 1 + k tokens of the main model, and `draft` for each draft."""
    return verify[depth] + depth * draft


def speed_up(verify: Sequence[float], draft: float, acceptance: Sequence[float], depth: int) -> float:
    """Return the tokens/s with drafts over those without."""
    return expected_tokens(acceptance, depth)[depth] * verify[0] / step_seconds(verify, draft, depth)


def best_depth(verify: Sequence[float], draft: float, acceptance: Sequence[float]) -> int:
    """Choose the depth, 0 included, with the most tokens/s; of equal ones the smallest.

    Args:
        verify: seconds for 1, 2, ... tokens of the main model in one call; its length limits the depth.
        draft: seconds for one token of the MTP head.
        acceptance: see `expected_tokens`.

    """
    depths = range(len(verify))
    return max(depths, key=lambda depth: (speed_up(verify, draft, acceptance, depth), -depth))
