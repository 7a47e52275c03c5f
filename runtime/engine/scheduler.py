"""Several sequences in one context: each step evaluates a token of all of them, so that the weights are read once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from qwen35_gguf.errors import ContextError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling
from qwen35_gguf.runtime.engine.token_mask import TokenMask
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model

MAX_PARALLEL = 64


@dataclass(frozen=True)
class Job:
    """One prompt.

    Attributes:
        tokens: of the prompt.
        sampling: how tokens are chosen.
        seed: of the sampler.
        limit: tokens generated at most.
        mask: of the answer; None: any.
        after: the token after which the mask applies; None: from the beginning.
        lead: tokens that come between.

    """

    tokens: list[int]
    sampling: Sampling
    seed: int
    limit: int
    mask: TokenMask | None = None
    after: int | None = None
    lead: tuple[int, ...] = ()


@dataclass(frozen=True)
class JobResult:
    """What was generated for a job.

    Attributes:
        tokens: all of them, the one that ended the generation included.
        ended: whether the last token ended it; otherwise the limit was reached.
        prompt_seconds: of evaluating the prompt.
        seconds: from then to the last token.

    """

    tokens: list[int]
    ended: bool
    prompt_seconds: float
    seconds: float


@dataclass
class _Slot:
    """A sequence that is being generated."""

    number: int
    job: Job
    sampler: Sampler
    prompt_seconds: float
    started: float
    pos: int
    row: int = -1
    tokens: list[int] = field(default_factory=list)


def run(
    model: Model,
    jobs: Sequence[Job],
    spec: ContextSpec,
    *,
    parallel: int,
    check: Callable[[], None] = lambda: None,
) -> list[JobResult]:
    """Run all jobs, up to `parallel` side by side; a sequence that ends makes room for the next job.

    Args:
        model: loaded.
        jobs: see `Job`.
        spec: of a context for one sequence; `n_ctx` is the most cells that each gets.
        parallel: sequences.
        check: is called before each step; what it raises ends them all.

    Returns:
        The results in the order of the jobs.

    Raises:
        ContextError: a prompt with its answer does not fit into `n_ctx`.

    """
    for number, job in enumerate(jobs):
        if len(job.tokens) + job.limit > spec.n_ctx:
            needed = f"{len(job.tokens):,} tokens and {job.limit:,} to generate"
            raise ContextError(f"prompts[{number}]: {needed} do not fit into a context of {spec.n_ctx:,}; raise n_ctx")
    if not jobs:
        return []
    parallel = min(parallel, len(jobs))
    cells = sum(sorted((len(job.tokens) + job.limit for job in jobs), reverse=True)[:parallel])
    done: dict[int, JobResult] = {}
    slots: dict[int, _Slot] = {}
    waiting = list(enumerate(jobs))
    shared = replace(spec, n_ctx=cells, n_batch=max(spec.n_batch, parallel), n_seq=parallel)
    with Context(model, shared) as context:
        try:
            while waiting or slots:
                check()
                for seq in range(parallel):
                    if seq not in slots and waiting:
                        number, job = waiting.pop(0)
                        slots[seq] = _begin(model, context, seq, number, job, spec.n_batch, check)
                        _sample(model, context, seq, slots, done)
                if slots:
                    _step(model, context, slots, done)
        finally:
            for slot in slots.values():
                slot.sampler.close()
    return [done[number] for number in range(len(jobs))]


def _begin(
    model: Model, context: Context, seq: int, number: int, job: Job, n_batch: int, check: Callable[[], None]
) -> _Slot:
    """Evaluate the prompt of a job."""
    start = time.perf_counter()
    for at in range(0, len(job.tokens), n_batch):
        check()
        part = job.tokens[at : at + n_batch]
        context.evaluate(part, at, seq=seq, outputs=int(at + len(part) == len(job.tokens)))
    now = time.perf_counter()
    sampler = Sampler(model, job.sampling, job.seed, job.mask, after=job.after, lead=job.lead)
    return _Slot(number, job, sampler, now - start, now, len(job.tokens))


def _step(model: Model, context: Context, slots: dict[int, _Slot], done: dict[int, JobResult]) -> None:
    """Evaluate the last token of each sequence, and sample the next ones."""
    order = list(slots)
    context.evaluate_rows([slots[seq].tokens[-1] for seq in order], [slots[seq].pos for seq in order], order)
    for row, seq in enumerate(order):
        slots[seq].pos += 1
        slots[seq].row = row
        _sample(model, context, seq, slots, done)


def _sample(model: Model, context: Context, seq: int, slots: dict[int, _Slot], done: dict[int, JobResult]) -> None:
    """Sample a token of a sequence; one that ends leaves its slot."""
    slot = slots[seq]
    token = slot.sampler.sample(context, slot.row)
    slot.tokens.append(token)
    ended = model.ends(token)
    if not ended and len(slot.tokens) < slot.job.limit:
        return
    slot.sampler.close()
    done[slot.number] = JobResult(slot.tokens, ended, slot.prompt_seconds, time.perf_counter() - slot.started)
    context.remove(0, seq=seq)
    del slots[seq]
