"""What is drafted in a step: by n-grams, which cost nothing, by the MTP head, or by n-grams where the head agrees.

It depends on the machine (what a step costs) and on the text (how often drafts are right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen35_gguf.runtime.engine.drafts.draft_depth import expected_tokens
from qwen35_gguf.runtime.engine.drafts.step_costs import OUTLIER, StepCosts

PROBING, IDLE_PROBING = 0.005, 0.002  # of the time may be spent on other plans than the best, and than no drafts
PROBE_EVERY = 8  # steps at least between two probes
REST = 7  # steps after one without drafts that are like it


@dataclass(frozen=True)
class Plan:
    """What is drafted for each answer.

    Attributes:
        depth: tokens that are verified.
        head: tokens that the MTP head drafts: none; all; or 1, after which n-grams draft the rest if they agree. Those
            beyond `depth` are only compared with what comes.

    """

    depth: int
    head: int = 0


@dataclass(frozen=True)
class Chances:
    """How often drafts for an answer are expected to be right.

    Attributes:
        ngrams: of each place of a draft by n-grams, if those before it are right; empty without one.
        head: of the MTP head's; empty where it cannot draft.
        agree: how often the first tokens of both are the same.
        agreed: how often that one is right then.

    """

    ngrams: Sequence[float] = ()
    head: Sequence[float] = ()
    agree: float = 0.0
    agreed: float = 0.0


def best_plan(costs: StepCosts, answers: Sequence[Chances]) -> tuple[Plan, float]:
    """Choose the plan with the most tokens/s, and return it with them; of equal ones the smallest.

    Args:
        costs: of steps for this number of answers.
        answers: that take the step; all get the same number of drafts, since a call takes equally many of each.

    """
    deepest = costs.max_depth
    ngrams = [expected_tokens(each.ngrams, deepest) for each in answers]
    heads = [expected_tokens(each.head, deepest) for each in answers]
    able = any(each.head for each in answers)
    most = max((len(each.ngrams) for each in answers), default=0)
    plan, rate = Plan(0), len(answers) / costs.verify[0]
    for depth in range(1, deepest + 1):
        found = []
        if depth <= most:
            found.append((sum(each[depth] for each in ngrams) / costs.verify[depth], Plan(depth)))
        if able:
            both = sum(max(one[depth], other[depth]) for one, other in zip(ngrams, heads, strict=True))
            found.append((both / costs.seconds(depth, depth), Plan(depth, depth)))
        if able and len(answers) == 1 and 1 < depth <= most:
            found.append((_chained(costs, answers[0], depth), Plan(depth, 1)))
        for tokens, one in found:
            if tokens > rate:
                plan, rate = one, tokens
    return plan, rate


def _chained(costs: StepCosts, answer: Chances, depth: int) -> float:
    """Return the tokens/s where the head drafts a token, and n-grams the rest if theirs is the same."""
    agree = answer.agree
    alone = max(0.0, answer.head[0] - agree * answer.agreed)  # right, and not what the n-gram drafted
    together = expected_tokens([answer.agreed, *answer.ngrams[1:]], depth)[depth]
    tokens = agree * together + (1 - agree) + alone
    return tokens / (costs.draft + agree * costs.verify[depth] + (1 - agree) * costs.verify[1])


class Planner:
    """Plans the steps of a number of answers, and learns what they cost.

    Attributes:
        costs: of steps.

    """

    def __init__(self, costs: StepCosts) -> None:
        """Begin with measured costs."""
        self.costs = costs
        self._seconds = self._lost = 0.0  # spent in steps; of these, by probes
        self._since_probe = self._probes = 0
        self._rate = 0.0  # tokens/s of the best plan of the last step
        self._probing = False
        self._rest = 0  # steps for which nothing is planned anew, if n-grams draft nothing

    def rests(self) -> bool:
        """Report whether a step is without drafts, as those before it: then nothing is measured, either.

        To be asked where n-grams draft nothing. Nothing that a plan depends on has changed since the last one but the
        costs, and what planning and timing cost would be lost.
        """
        if not self._rest:
            return False
        self._rest -= 1
        self._since_probe += 1
        self._seconds += self.costs.verify[0]
        return True

    def next(self, answers: Sequence[Chances]) -> Plan:
        """Return the plan of the next step: the best one, and sometimes another, to see whether that is better.

        Others are one draft more or less; and a draft of the head where it does not draft, which is compared with what
        comes, or verified as well. What that costs, as if nothing of it were right, must fit into a small part of the
        time.
        """
        best, self._rate = best_plan(self.costs, answers)
        self._rest = REST if best == Plan(0) else 0
        self._since_probe += 1
        self._probing = False
        if self._since_probe < PROBE_EVERY:
            return best
        able = any(each.head for each in answers)
        others = [Plan(best.depth, 1)] if able and not best.head else []
        if best.head == best.depth > 0 and best.depth < self.costs.max_depth:
            others.append(Plan(best.depth + 1, best.head + 1))
        elif best.depth < min(self.costs.max_depth, max((len(each.ngrams) for each in answers), default=0)):
            others.append(Plan(best.depth + 1, best.head))
        elif able and best == Plan(0):
            others.append(Plan(1, 1))  # what verifying costs was measured at load only
        if best.depth > 1:
            others.append(Plan(best.depth - 1, min(best.head, best.depth - 1)))
        if not others:
            return best
        other = others[self._probes % len(others)]
        loss = self.costs.seconds(other.depth, other.head) - len(answers) / self._rate
        if self._lost + max(0.0, loss) > (PROBING if best.depth else IDLE_PROBING) * self._seconds:
            return best
        self._since_probe = 0
        self._probes += 1
        self._rest, self._probing = 0, True
        return other

    def record(self, plan: Plan, tokens: int, verify_seconds: float, draft_seconds: float) -> None:
        """Learn from a step that gave some tokens, of all answers."""
        # A machine that slept meanwhile neither has lost that time to drafts, nor may lose more for it.
        seconds = min(verify_seconds + draft_seconds, OUTLIER * self.costs.seconds(plan.depth, plan.head))
        if self._probing and self._rate:
            self._lost = max(0.0, self._lost + seconds - tokens / self._rate)
        self._seconds += seconds
        self.costs.record(plan.depth, plan.head, verify_seconds, draft_seconds)
