"""What a scheduler does now and has done so far, for those who watch it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from qwen35_gguf.runtime.engine.job import Run

GAPS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds, the upper ends of the counted ranges


@dataclass(frozen=True)
class Slot:
    """What a sequence does.

    Attributes:
        number: of the sequence.
        phase: "idle"; "prompt": its prompt is evaluated; "answer": it generates.
        held: items that the context holds of it.
        prompt: tokens of the prompt.
        evaluated: of these, those that are evaluated or reused.
        generated: tokens so far.

    """

    number: int
    phase: Literal["idle", "prompt", "answer"]
    held: int
    prompt: int = 0
    evaluated: int = 0
    generated: int = 0


@dataclass
class Counters:
    """Sums over all requests so far.

    Attributes:
        requests: that are over.
        failed: of these, those that ended with an error or were cancelled.
        prompt_tokens: of prompts that were begun.
        reused_tokens: of these, those that were not evaluated.
        tokens: generated.
        drafted: tokens that were drafted.
        accepted: of these, the accepted ones.
        prompt_seconds: of evaluating prompts.
        answer_seconds: of generating.
        steps: calls for answers.
        gaps: how often a running answer waited for its next token up to each of `GAPS` seconds, and longer.
        gap_seconds: of all gaps.
        longest_gap: seconds.

    """

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    prompt_seconds: float = 0.0
    answer_seconds: float = 0.0
    steps: int = 0
    gaps: list[int] = field(default_factory=lambda: [0] * (len(GAPS) + 1))
    gap_seconds: float = 0.0
    longest_gap: float = 0.0

    def plus(self, other: Counters) -> Counters:
        """Return the sums of both."""
        made = Counters(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})
        made.gaps = [one + more for one, more in zip(self.gaps, other.gaps, strict=True)]
        made.longest_gap = max(self.longest_gap, other.longest_gap)
        return made

    def copy(self) -> Counters:
        """Return a copy, which does not change any more."""
        return replace(self, gaps=list(self.gaps))

    def add_step(self, runs: Sequence[Run], now: float) -> None:
        """Count a step for answers that was over `now`, of `time.perf_counter`."""
        self.steps += 1
        for run in runs:
            if run.stepped:
                gap = now - run.stepped
                self.gaps[bisect_left(GAPS, gap)] += 1
                self.gap_seconds += gap
                self.longest_gap = max(self.longest_gap, gap)
            run.stepped = now if run.job.wants() else 0.0

    def add_run(self, run: Run, now: float, *, failed: bool) -> None:
        """Count a request that is over."""
        self.requests += 1
        self.failed += failed
        self.tokens += run.number
        self.drafted += run.drafts.drafted
        self.accepted += run.drafts.accepted
        if run.began:
            evaluated = run.evaluated or now
            self.prompt_tokens += run.total
            self.reused_tokens += run.reused
            self.prompt_seconds += evaluated - run.began
            self.answer_seconds += now - evaluated


@dataclass(frozen=True)
class Snapshot:
    """A scheduler at one moment.

    Attributes:
        slots: its sequences.
        waiting: requests that wait for one.
        suspended: answers that gave way, because nobody reads them.
        queue_limit: of requests that may wait; None without one.
        cache_bytes: of states in memory.
        cache_limit: of these at most.
        stored_states: on disk.
        counters: sums so far.

    """

    slots: tuple[Slot, ...]
    waiting: int
    suspended: int
    queue_limit: int | None
    cache_bytes: int
    cache_limit: int
    stored_states: int
    counters: Counters


def slot_of(number: int, held: int, run: Run | None) -> Slot:
    """Return what a sequence does, which holds some items and has a run, or none."""
    live = None if run is None else run.sequence
    if run is None or live is None:  # it ends at this moment
        return Slot(number, "idle", held)
    if run.phase == "prompt":
        return Slot(number, "prompt", held, run.total, live.cells + run.rows)
    return Slot(number, "answer", held, run.total, run.total, run.number)
