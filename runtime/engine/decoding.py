"""A step of the answers that are being generated: their last tokens and drafts in one call, then what is sampled next.

With drafts each call evaluates the last token and the drafts after it; as long as the sampled token is the draft, its
row is already computed. What is sampled is the same as without. Tokens that certainly follow (`TokenMask.forced`) are
evaluated in one call with the token before them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen35_gguf.errors import NonFiniteError, Qwen35Error, RpcServerError
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.drafts.drafting import Draftable, Drafting, Step
from qwen35_gguf.runtime.engine.drafts.mtp import Drafter
from qwen35_gguf.runtime.engine.job import End, Run
from qwen35_gguf.runtime.llama.batch import Part
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.non_finite import non_finite_error

Ended = tuple[Run, End | Exception]


@dataclass
class _Rows:
    """What a run evaluates in a step: tokens that are known, and drafts after them."""

    run: Run
    known: list[int]
    drafts: list[int]
    padding: int = 0  # of these, tokens at the end that only fill the call

    @property
    def tokens(self) -> list[int]:
        return [*self.known, *self.drafts]


class Decoder:
    """Evaluates and samples for several runs.

    Attributes:
        steps: so far.

    """

    def __init__(self, main: Context, n_ctx: int, depth: Depth, *, alone: bool, ngrams: bool = True) -> None:
        """Use a context.

        Args:
            main: of the main model.
            n_ctx: cells of each sequence.
            depth: tokens drafted in each step, or "auto".
            alone: evaluate each sequence in calls of its own, so that the others change nothing in it.
            ngrams: whether n-grams draft, too; not where sequences are alone: they know the answers of others.

        """
        self._main, self._n_ctx, self._depth, self._alone = main, n_ctx, depth, alone
        self._drafting = Drafting(depth, ngrams=ngrams and not alone) if depth != 0 else None
        self.steps = 0

    @property
    def measured(self) -> bool:
        """Whether nothing is to be measured any more."""
        return self._drafting is None or self._drafting.measured

    def measure(self, drafter: Drafter | None) -> None:
        """Measure the costs of steps, on contexts that are empty."""
        if self._drafting is not None:
            self._drafting.measure(self._main, drafter)

    def forget(self) -> None:
        """Draft nothing from earlier answers."""
        if self._drafting is not None:
            self._drafting.forget()

    def step(self, runs: Sequence[Run]) -> Iterator[Ended]:
        """Evaluate what is known of each run, and sample; give those that end, before others are evaluated.

        A call that fails ends all runs in it. Their sequences are then `in_step`.

        Raises:
            ModelError, RpcServerError: the MTP head, or an RPC server, fails.

        """
        self.steps += 1
        rows, timed = self._draft(runs)
        before = sum(run.number for run in runs)
        failed = self._shorten(rows)
        yield from failed
        for group in self._groups([each for each in rows if each.run not in dict(failed)]):
            start = time.perf_counter()
            for each in group:
                each.run.live.in_step = True  # until it is recorded what was evaluated
            try:
                self._main.evaluate_parts(
                    [Part(each.tokens, each.run.live.pos, each.run.live.seq, 1 + len(each.drafts)) for each in group]
                )
            except RpcServerError:
                raise
            except Qwen35Error as error:
                yield from [(each.run, error) for each in group]
                continue
            if timed is not None:
                self._main.wait()
                seconds, timed = time.perf_counter() - start, timed if len(group) == len(rows) else None
            row = 0
            ended: list[Ended] = []
            for each in group:
                try:
                    end: End | Exception | None = self._take(each, row)
                except Exception as error:
                    end = error
                if end is not None:
                    self._learn_answer(each.run, end)
                    ended.append((each.run, end))
                row += len(each.tokens)
            if timed is not None:
                timed.planner.record(timed.plan, sum(run.number for run in runs) - before, seconds, timed.draft_seconds)
            yield from ended

    # ---- before the call -----------------------------------------------------------------------------------------

    def _draft(self, runs: Sequence[Run]) -> tuple[list[_Rows], Step | None]:
        """Draft for runs; return what they evaluate, and what is learned from it."""
        if self._drafting is None:
            return [_Rows(run, run.known, []) for run in runs], None
        answers = [self._draftable(run, self._drafting) for run in runs]
        step = self._drafting.draft(answers)
        for run, each in zip(runs, answers, strict=True):
            run.drafts.drafted += len(each.drafts) - each.padding
        return [_Rows(run, run.known, each.drafts, each.padding) for run, each in zip(runs, answers, strict=True)], step

    def _draftable(self, run: Run, drafting: Drafting) -> Draftable:
        live = run.live
        if run.text is None:
            run.text = drafting.begin(live.items)
        most = min(run.job.limit - run.number, self._n_ctx - live.cells - len(run.known) + 1) - 1
        depth = self._depth if run.job.depth is None else run.job.depth
        return Draftable(run.text, live.drafter, live.items, run.known, live.pos, most, depth, run.job.sampler.draft)

    def _learn_answer(self, run: Run, end: End | Exception) -> None:
        if self._drafting is not None and run.text is not None and not isinstance(end, Exception):
            self._drafting.over(run.text, run.live.items, len(run.items))

    def _shorten(self, rows: Sequence[_Rows]) -> list[Ended]:
        """Evaluate long rows of known tokens but for the last call; return the runs for which that fails."""
        failed: list[Ended] = []
        for each in rows:
            live = each.run.live
            try:
                while len(each.tokens) > self._main.n_batch:
                    count = min(self._main.n_batch, len(each.known) - 1)
                    part, each.known = each.known[:count], each.known[count:]
                    live.in_step = True
                    self._main.evaluate(part, live.pos, seq=live.seq)
                    self._record(each.run, part, 0)
            except RpcServerError:
                raise
            except Qwen35Error as error:
                failed.append((each.run, error))
        return failed

    def _groups(self, rows: Sequence[_Rows]) -> Iterator[list[_Rows]]:
        """Give what is evaluated in one call each: sequences with the same number of rows.

        The recurrent layers take the same number of tokens of each sequence in a call: llama.cpp evaluates others in
        several.
        """
        n_batch = self._main.n_batch
        groups: dict[int, list[_Rows]] = {}
        for number, each in enumerate(rows):
            groups.setdefault(number if self._alone else -len(each.tokens), []).append(each)
        for group in groups.values():
            most = max(1, n_batch // len(group[0].tokens))
            for start in range(0, len(group), most):
                yield group[start : start + most]

    # ---- after the call ------------------------------------------------------------------------------------------

    def _record(self, run: Run, tokens: Sequence[int], row: int) -> None:
        """Record tokens of the last call, from a row on, as part of the sequence."""
        live = run.live
        if live.drafter is not None:
            live.drafter.sync(tokens, live.pos, self._main.hidden(row + len(tokens))[row:])
        live.append(tokens, len(tokens), len(tokens))
        live.in_step = False

    def _take(self, rows: _Rows, first: int) -> End | None:
        """Sample what follows, and keep the drafts that it confirms."""
        run, unverified = rows.run, list(rows.drafts)
        accepted: list[int] = []
        run.known = []
        row = first + len(rows.known) - 1
        end: End | None = None
        try:
            while not run.known and end is None:
                end = self.sample(run, row, pending=len(rows.known) + len(accepted))
                while run.known and run.known[:1] == unverified[:1]:
                    accepted.append(run.known.pop(0))
                    del unverified[0]
                    row += 1
        finally:
            self._record(run, [*rows.known, *accepted], first)
            run.drafts.accepted += min(len(accepted), len(rows.drafts) - rows.padding)
            if unverified:
                run.live.roll_back()
        if run.text is not None:
            run.text.learn([*accepted, *run.known])
        return end

    def sample(self, run: Run, row: int, *, pending: int = 0) -> End | None:
        """Sample a token from a row of the last call, and give it and what certainly follows to the job.

        `pending` tokens were evaluated, but are not recorded yet.
        """
        sampler, limit = run.job.sampler, run.job.limit
        if run.number >= limit:
            return "limit"
        try:
            tokens = [sampler.sample(self._main, row)]
        except NonFiniteError:
            raise non_finite_error(self._main, max(run.items, run.live.items, key=len)) from None
        if not self._give(run, tokens[0]):
            return "stopped"
        for token in sampler.forced()[: limit - run.number]:  # what the mask leaves no choice about
            if not self._give(run, token):
                return "stopped"
        if run.number >= limit:
            return "limit"
        return "full" if run.live.cells + pending + len(run.known) > self._n_ctx else None

    def _give(self, run: Run, token: int) -> bool:
        run.number += 1
        more = run.job.take(token)
        if more is None:
            return False
        run.known.append(token)
        if more:
            run.job.sampler.accept(*more)
            run.known += more
        return True
