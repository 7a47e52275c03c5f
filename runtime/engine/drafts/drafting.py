"""Draft for the answers that take a step together."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from qwen35_gguf.runtime.engine.drafts import measured_costs, mtp
from qwen35_gguf.runtime.engine.drafts.acceptance import Rates
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth, depth_limit, expected_tokens
from qwen35_gguf.runtime.engine.drafts.draft_plan import Plan, Planner
from qwen35_gguf.runtime.engine.drafts.draft_rows import choose_rows
from qwen35_gguf.runtime.engine.drafts.drafted_text import DraftedText
from qwen35_gguf.runtime.engine.drafts.mtp import Choose, Drafter
from qwen35_gguf.runtime.engine.drafts.ngrams import ANSWER_TOKENS, Item, add_answer
from qwen35_gguf.runtime.engine.drafts.row_costs import RowsRead
from qwen35_gguf.runtime.engine.drafts.step_costs import StepCosts
from qwen35_gguf.runtime.engine.drafts.token_index import TokenIndex
from qwen35_gguf.runtime.engine.scope import scope_of
from qwen35_gguf.runtime.llama.context import Context

SCOPES = 64  # whose earlier answers are remembered
KEEP_ROWS = 16  # planned steps from one choice of the rows that drafts read to the next


@dataclass
class Draftable:
    """An answer that takes a step.

    Attributes:
        text: of the answer.
        head: the MTP head's side of its sequence; None without one.
        items: of the sequence.
        known: tokens that follow, the first of them at position `pos`.
        pos: see `known`.
        most: tokens that may be drafted after them.
        depth: tokens to draft, or "auto".
        choose: how the head's drafts are chosen.
        drafts: what is drafted.
        padding: tokens at its end that only fill the call.

    """

    text: DraftedText
    head: Drafter | None
    items: Sequence[Item]
    known: Sequence[int]
    pos: int
    most: int
    depth: Depth
    choose: Choose
    drafts: list[int] = field(default_factory=list)
    padding: int = 0

    def can_ask_head(self) -> bool:
        """Report whether the head may draft: it needs the row of the main model before the one known token."""
        return self.head is not None and self.head.hidden is not None and len(self.known) == 1


@dataclass
class Step:
    """A step that the planner learns from.

    Attributes:
        planner: for this number of answers.
        plan: what was drafted.
        draft_seconds: what the head took.

    """

    planner: Planner
    plan: Plan
    draft_seconds: float


class Drafting:
    """Drafts for all answers of a context."""

    def __init__(self, depth: Depth, *, ngrams: bool) -> None:
        """Begin without measured costs: then nothing is drafted automatically.

        Args:
            depth: tokens drafted in each step, or "auto".
            ngrams: whether n-grams draft, too.

        """
        self.depth, self._limit = depth, depth_limit(depth)
        self._ngrams = ngrams
        self._rates = Rates.begin(self._limit)
        self.forget()
        self._seconds: list[float] = []  # of 1, 2, ... tokens in a call
        self._draft_seconds = 0.0
        self._rows, self._keep_rows = RowsRead(), 0
        self._planners: dict[int, Planner] = {}

    def forget(self) -> None:
        """Draft nothing from earlier answers; what steps cost, and how often drafts are right, is kept."""
        self._answers: OrderedDict[str | None, TokenIndex] = OrderedDict()  # by scope, the one used last at the end

    @property
    def measured(self) -> bool:
        """Whether nothing is to be measured any more."""
        return self.depth != "auto" or bool(self._seconds)

    def measure(self, main: Context, drafter: Drafter | None) -> None:
        """Measure the costs of steps, on contexts that are empty."""
        costs = measured_costs.measure_costs(main, drafter, self._limit, main.spec.n_seq)
        self._seconds, self._draft_seconds, self._rows.costs = costs

    def begin(self, items: Sequence[Item]) -> DraftedText:
        """Begin an answer to a prompt."""
        return DraftedText(items, self._answers_for(items), self._rates.copy(), self._rows)

    def over(self, text: DraftedText, items: Sequence[Item], n_prompt: int) -> None:
        """Learn from an answer that is over, for others."""
        self._rates = text.rates
        answers = self._answers_for(items)
        if answers is not None:
            add_answer(answers, items, n_prompt)

    def _answers_for(self, items: Sequence[Item]) -> TokenIndex | None:
        """Return the earlier answers that a prompt may be drafted from: those of its scope."""
        if not self._ngrams:
            return None
        scope = scope_of(items)
        if scope not in self._answers:
            self._answers[scope] = TokenIndex(ANSWER_TOKENS)
        self._answers.move_to_end(scope)
        if len(self._answers) > SCOPES:
            self._answers.popitem(last=False)
        return self._answers[scope]

    def draft(self, answers: Sequence[Draftable]) -> Step | None:
        """Draft for answers; return what to learn from, if this step shows what one costs."""
        for each in answers:
            if each.depth != 0 and each.most > 0:
                each.text.look_up(each.items, each.known, min(self._limit, each.most))
            else:
                each.text.match, each.text.guess = None, []
        planner = self._planner(len(answers))
        automatic = [each for each in answers if each.depth == "auto" and planner is not None and each.most > 0]
        drafted = any(each.text.match for each in answers)
        if planner is not None and len(automatic) == len(answers) and not drafted and planner.rests():
            return None
        plan = Plan(0)
        if planner is not None and automatic:
            self._choose_rows(planner.costs, automatic)
            plan = planner.next([each.text.chances(self._limit if each.can_ask_head() else 0) for each in automatic])
        plans = [(each, plan) for each in automatic]
        plans += [(each, _fixed(each, each.depth)) for each in answers if isinstance(each.depth, int) and each.depth]
        start = time.perf_counter()
        self._ask_head(plans)
        seconds = time.perf_counter() - start
        for each, its in plans:
            each.drafts = _chosen(each, min(its.depth, each.most), its.head)
        together = len(answers) > 1 and len(automatic) == len(answers)
        if together:  # a call takes equally many tokens of each
            for each, its in plans:
                count = min(its.depth, each.most) - len(each.drafts)
                each.drafts += [each.known[-1]] * count
                each.padding = count
        depths = {len(each.drafts) for each in answers}
        if planner is None or len(automatic) < len(answers) or len(depths) > 1:
            return None
        if any(len(each.known) > 1 for each in answers):
            return None
        head = max((len(each.text.guess) for each in answers), default=0)
        return Step(planner, Plan(depths.pop(), head), seconds)

    def _choose_rows(self, costs: StepCosts, answers: Sequence[Draftable]) -> None:
        """Let the head's drafts read the rows that pay in these texts."""
        asked = [each for each in answers if each.can_ask_head()]
        if self._rows.costs is None or not asked:
            return
        if self._keep_rows == 0:
            texts = [(each.text.rates.of_head(), each.text.covered) for each in asked]
            self._rows.count = choose_rows(self._rows.count, costs, self._rows.costs, texts)
            self._keep_rows = KEEP_ROWS
        self._keep_rows -= 1

    def _ask_head(self, plans: Sequence[tuple[Draftable, Plan]]) -> None:
        wanted: dict[int, list[Draftable]] = {}
        for each, plan in plans:
            count = min(plan.head, max(1, each.most))
            if count and each.can_ask_head():
                wanted.setdefault(count, []).append(each)
        for count, group in wanted.items():
            heads = [each.head for each in group if each.head is not None]
            heads[0].head.read_rows(self._rows.count)
            tokens, positions = [each.known[0] for each in group], [each.pos for each in group]
            found = mtp.draft(heads, tokens, positions, count, [each.choose for each in group])
            for each, drafts in zip(group, found, strict=True):
                each.text.guess = drafts

    def _planner(self, count: int) -> Planner | None:
        """Return what plans the steps of this number of answers."""
        if not self._seconds or count == 0:
            return None
        if count not in self._planners:
            costs = [self._seconds[(1 + depth) * count - 1] for depth in range(1 + self._limit)]
            self._planners[count] = Planner(StepCosts(costs, self._draft_seconds, self._rows))
        return self._planners[count]


def _fixed(answer: Draftable, depth: int) -> Plan:
    """Let n-grams draft where they are expected to be right at least as often as the head."""
    depth = min(depth, answer.most)
    chances = answer.text.chances(depth if answer.can_ask_head() else 0)
    better = expected_tokens(chances.ngrams, depth)[depth] >= expected_tokens(chances.head, depth)[depth]
    return Plan(depth) if chances.ngrams and better else Plan(depth, depth)


def _chosen(answer: Draftable, depth: int, head: int) -> list[int]:
    """Choose between what n-grams and the head draft, and chain them where they agree."""
    text = answer.text
    ngrams, guess = text.match.tokens[:depth] if text.match is not None else [], text.guess[:depth]
    if not guess or not ngrams:
        return ngrams or guess
    if head < depth and guess[0] == ngrams[0]:
        return ngrams
    rates = text.ngram_rates()
    better = expected_tokens(rates, len(guess))[len(guess)] > expected_tokens(text.head_rates(), len(guess))[len(guess)]
    return ngrams if better else guess
