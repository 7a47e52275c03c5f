"""A step of the answers that are being generated: their last tokens and drafts in one call, then what is sampled next.

With drafts each call evaluates the last token and the drafts after it; as long as the sampled token is the draft, its
row is already computed. What is sampled is the same as without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from qwen35_gguf.runtime.engine import mtp
from qwen35_gguf.runtime.engine.draft_depth import Depth, DepthTuner, depth_limit
from qwen35_gguf.runtime.engine.job import End, Run
from qwen35_gguf.runtime.engine.mtp import Drafter
from qwen35_gguf.runtime.llama.batch import Part
from qwen35_gguf.runtime.llama.context import Context

Ended = tuple[Run, End | Exception]


@dataclass
class _Rows:
    """What a run evaluates in a step: tokens that are known, and drafts after them."""

    run: Run
    known: list[int]
    drafts: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [*self.known, *self.drafts]


@dataclass(frozen=True)
class _Timing:
    """What a step with drafts cost; `tuner` learns from it."""

    tuner: DepthTuner
    depth: int
    verify_seconds: float
    draft_seconds: float


class Decoder:
    """Evaluates and samples for several runs.

    Attributes:
        steps: so far.

    """

    def __init__(self, main: Context, n_ctx: int, depth: Depth, *, alone: bool) -> None:
        """Use a context.

        Args:
            main: of the main model.
            n_ctx: cells of each sequence.
            depth: tokens drafted in each step, or "auto".
            alone: evaluate each sequence in calls of its own, so that the others change nothing in it.

        """
        self._main, self._n_ctx, self._depth, self._alone = main, n_ctx, depth, alone
        self._seconds: list[float] = []  # of 1, 2, ... tokens in a call
        self._draft_seconds = 0.0
        self._tuners: dict[int, DepthTuner] = {}
        self.steps = 0

    @property
    def measured(self) -> bool:
        """Whether nothing is to be measured any more."""
        return self._depth != "auto" or bool(self._seconds)

    def measure(self, drafter: Drafter) -> None:
        """Measure the costs of steps, on contexts that are empty."""
        n_seq = self._main.spec.n_seq
        self._seconds, self._draft_seconds = mtp.measure_costs(self._main, drafter, depth_limit("auto"), n_seq)

    def step(self, runs: Sequence[Run]) -> Iterator[Ended]:
        """Evaluate what is known of each run, and sample; give those that end, before others are evaluated.

        Raises:
            ModelError, RpcServerError: llama.cpp fails, for all runs of a call.

        """
        self.steps += 1
        rows = [_Rows(run, run.known) for run in runs]
        timing = self._draft(rows)
        for group in self._groups(rows):
            start = time.perf_counter()
            self._main.evaluate_parts(
                [Part(each.tokens, each.run.live.pos, each.run.live.seq, 1 + len(each.drafts)) for each in group]
            )
            if timing is not None and len(group) == len(rows):
                self._main.wait()
                timing = _Timing(timing.tuner, timing.depth, time.perf_counter() - start, timing.draft_seconds)
            else:
                timing = None
            row = 0
            for each in group:
                try:
                    end: End | Exception | None = self._take(each, row, timing)
                except Exception as error:
                    end = error
                if end is not None:
                    yield each.run, end
                row += len(each.tokens)

    # ---- before the call -----------------------------------------------------------------------------------------

    def _draft(self, rows: Sequence[_Rows]) -> _Timing | None:
        """Draft for the runs that have one known token."""
        wanted: dict[int, list[_Rows]] = {}
        tuner = self._tuner(len(rows)) if self._depth == "auto" else None
        automatic = tuner.next() if tuner is not None else 0
        for each in rows:
            depth = each.run.job.depth if each.run.job.depth is not None else self._depth
            drafter = each.run.live.drafter
            if drafter is None or len(each.known) > 1:
                continue
            most = min(each.run.job.limit - each.run.number, self._n_ctx - each.run.live.cells) - 1
            count = min(automatic if depth == "auto" else depth, most)
            if count > 0:
                wanted.setdefault(count, []).append(each)
        start = time.perf_counter()
        for depth, group in wanted.items():
            drafters = [drafter for each in group if (drafter := each.run.live.drafter) is not None]
            tokens = [each.known[0] for each in group]
            found = mtp.draft(drafters, tokens, [each.run.live.pos for each in group], depth)
            for each, drafts in zip(group, found, strict=True):
                each.drafts = drafts
                each.run.drafts.drafted += len(drafts)
        counts = {len(each.drafts) for each in rows}
        if tuner is None or len(counts) > 1 or any(each.run.job.depth not in (None, "auto") for each in rows):
            return None
        if any(len(each.known) > 1 for each in rows):
            return None
        return _Timing(tuner, counts.pop(), 0.0, time.perf_counter() - start)

    def _tuner(self, count: int) -> DepthTuner | None:
        """Return what decides the depth for this number of answers."""
        if not self._seconds or count == 0:
            return None
        if count not in self._tuners:
            limit = depth_limit("auto")
            tuner = DepthTuner(limit)
            costs = [self._seconds[(1 + depth) * count - 1] for depth in range(1 + limit)]
            tuner.measured(costs, self._draft_seconds)
            self._tuners[count] = tuner
        return self._tuners[count]

    def _groups(self, rows: Sequence[_Rows]) -> Iterator[list[_Rows]]:
        """Give what is evaluated in one call each: sequences with the same number of rows.

        The recurrent layers take the same number of tokens of each sequence in a call: llama.cpp evaluates others in
        several. Of a long row of known tokens all but the last call is evaluated here.
        """
        n_batch = self._main.n_batch
        for each in rows:
            while len(each.known) > n_batch:
                part, each.known = each.known[:n_batch], each.known[n_batch:]
                live = each.run.live
                self._main.evaluate(part, live.pos, seq=live.seq)
                self._record(each.run, part, 0)
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

    def _take(self, rows: _Rows, first: int, timing: _Timing | None) -> End | None:
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
            run.drafts.accepted += len(accepted)
            if unverified:
                run.live.roll_back()
        if timing is not None:
            timing.tuner.record(timing.depth, len(accepted), timing.verify_seconds, timing.draft_seconds)
        return end

    def sample(self, run: Run, row: int, *, pending: int = 0) -> End | None:
        """Sample a token from a row of the last call, and give it and what certainly follows to the job.

        `pending` tokens were evaluated, but are not recorded yet.
        """
        sampler, limit = run.job.sampler, run.job.limit
        if run.number >= limit:
            return "limit"
        tokens = [sampler.sample(self._main, row)]
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
