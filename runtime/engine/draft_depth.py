"""How many tokens the MTP head drafts in each step.

That depends on the machine (what a step of 1 + k tokens costs) and on the text (how often drafts are accepted).
`best_depth` is that decision, `DepthTuner` measures what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Depth = int | Literal["auto"]

MAX_DEPTH = 4
# Acceptance before the first observation, and how many observations that is worth.
PRIOR, PRIOR_WEIGHT = 0.6, 2.0
MEMORY = 20.0  # observations that an average covers
COST_STEP = 0.1  # weight of a new measurement in the costs
OUTLIER = 2.0  # a step that takes more than this many times as long was interrupted
PROBING = 0.01  # of the time may be spent on other depths than the best
PROBE_EVERY = 8  # steps at least between two probes


def depth_limit(depth: Depth) -> int:
    """Return the most tokens that a step drafts."""
    return MAX_DEPTH if depth == "auto" else depth


def expected_tokens(acceptance: Sequence[float], depth: int) -> float:
    """Return the mean number of tokens that a step with `depth` drafts gives.

    `acceptance[i]` is the probability that draft i is accepted if those before it are.
    """
    total = part = 1.0
    for probability in acceptance[:depth]:
        part *= probability
        total += part
    return total


def step_seconds(verify: Sequence[float], draft: float, depth: int) -> float:
    """Return the time of a step: `verify[k]` for 1 + k tokens of the main model, and `draft` for each draft."""
    return verify[depth] + depth * draft


def speed_up(verify: Sequence[float], draft: float, acceptance: Sequence[float], depth: int) -> float:
    """Return the tokens/s with drafts over those without."""
    return expected_tokens(acceptance, depth) * verify[0] / step_seconds(verify, draft, depth)


def best_depth(verify: Sequence[float], draft: float, acceptance: Sequence[float]) -> int:
    """Choose the depth, 0 included, with the most tokens/s; of equal ones the smallest.

    Args:
        verify: seconds for 1, 2, ... tokens of the main model in one call; its length limits the depth.
        draft: seconds for one token of the MTP head.
        acceptance: see `expected_tokens`.

    """
    depths = range(len(verify))
    return max(depths, key=lambda depth: (speed_up(verify, draft, acceptance, depth), -depth))


class DepthTuner:
    """Chooses the depth of each step from measured costs and tracked acceptance.

    Attributes:
        verify: see `best_depth`; empty until `measured`.
        draft: seconds for one token of the MTP head.
        acceptance: a moving average for each draft of a step.

    """

    def __init__(self, max_depth: int = MAX_DEPTH) -> None:
        """Start without measurements."""
        self.max_depth = max_depth
        self.verify: list[float] = []
        self.draft = 0.0
        self.acceptance = [PRIOR] * max_depth
        self._weights = [PRIOR_WEIGHT] * max_depth
        self._seconds = 0.0  # spent in steps
        self._lost = 0.0  # of these, by probes
        self._since_probe = 0
        self._probes = 0

    @property
    def ready(self) -> bool:
        """Whether the costs were measured."""
        return bool(self.verify)

    def measured(self, verify: Sequence[float], draft: float) -> None:
        """Take the first measurement; a step of more tokens is assumed to cost no less."""
        self.verify = list(np.maximum.accumulate(np.asarray(verify, np.float64)))
        self.draft = draft

    def best(self) -> int:
        """Return the depth that is fastest by the measurements so far."""
        return best_depth(self.verify, self.draft, self.acceptance)

    def next(self) -> int:
        """Return the depth of the next step: the best one, and sometimes a neighbour, to see whether it is better.

        The cost of a probe is estimated as if none of its drafts were accepted; it must fit into 1 % of the time.
        """
        best = self.best()
        self._since_probe += 1
        if self._since_probe < PROBE_EVERY or self.max_depth == 0:
            return best
        neighbours = [depth for depth in (best + 1, best - 1) if 0 <= depth <= self.max_depth]
        other = neighbours[self._probes % len(neighbours)]
        rate = expected_tokens(self.acceptance, best) / step_seconds(self.verify, self.draft, best)
        loss = step_seconds(self.verify, self.draft, other) - 1.0 / rate
        if self._lost + max(0.0, loss) > PROBING * self._seconds:
            return best
        self._since_probe = 0
        self._probes += 1
        return other

    def record(self, depth: int, accepted: int, verify_seconds: float, draft_seconds: float) -> None:
        """Learn from a step with `depth` drafts of which the first `accepted` were accepted."""
        best = self.best()
        if depth != best:
            rate = expected_tokens(self.acceptance, best) / step_seconds(self.verify, self.draft, best)
            self._lost = max(0.0, self._lost + verify_seconds + draft_seconds - (1 + accepted) / rate)
        self._seconds += verify_seconds + draft_seconds
        self.verify[depth] = _average(self.verify[depth], verify_seconds)
        if depth:
            self.draft = _average(self.draft, draft_seconds / depth)
        for place in range(min(depth, accepted + 1)):
            self._weights[place] = min(self._weights[place] + 1.0, MEMORY)
            self.acceptance[place] += ((place < accepted) - self.acceptance[place]) / self._weights[place]


def _average(known: float, seen: float) -> float:
    return known + COST_STEP * (min(seen, OUTLIER * known) - known)
