"""Several sequences in one context: each step evaluates a token of all of them, so that the weights are read once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from qwen35_gguf.errors import ContextError, GrammarError, Qwen35Error
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
        watch: is called with each token, and ends the generation by returning True.

    """

    tokens: list[int]
    sampling: Sampling
    seed: int
    limit: int
    mask: TokenMask | None = None
    after: int | None = None
    lead: tuple[int, ...] = ()
    watch: Callable[[int], bool] | None = None


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


Done = Callable[[int, JobResult | Qwen35Error], None]


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
    jobs: Mapping[int, Job],
    spec: ContextSpec,
    *,
    parallel: int,
    done: Done,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Run all jobs, up to `parallel` side by side; a sequence that ends makes room for the next job.

    Args:
        model: loaded.
        jobs: by their numbers; each fits (`check_fits`).
        spec: of a context for one sequence; `n_ctx` is the most cells that each gets.
        parallel: sequences.
        done: is called with the number of a job and its result, or the error that ended it alone, at that moment.
        check: is called before each step; what it raises ends them all.

    Raises:
        ModelError: llama.cpp fails.

    """
    if not jobs:
        return
    parallel = min(parallel, len(jobs))
    cells = sum(sorted((len(job.tokens) + job.limit for job in jobs.values()), reverse=True)[:parallel])
    slots: dict[int, _Slot] = {}
    waiting = list(jobs.items())
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


def check_fits(job: Job, spec: ContextSpec) -> None:
    """Check that a prompt with its answer fits into a sequence.

    Raises:
        ContextError: it does not.

    """
    if len(job.tokens) + job.limit > spec.n_ctx:
        needed = f"{len(job.tokens):,} tokens and {job.limit:,} to generate"
        raise ContextError(f"{needed} do not fit into a context of {spec.n_ctx:,}; raise n_ctx")


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


def _step(model: Model, context: Context, slots: dict[int, _Slot], done: Done) -> None:
    """Evaluate the last token of each sequence, and sample the next ones."""
    order = list(slots)
    context.evaluate_rows([slots[seq].tokens[-1] for seq in order], [slots[seq].pos for seq in order], order)
    for row, seq in enumerate(order):
        slots[seq].pos += 1
        slots[seq].row = row
        _sample(model, context, seq, slots, done)


def _sample(model: Model, context: Context, seq: int, slots: dict[int, _Slot], done: Done) -> None:
    """Sample a token of a sequence; one that ends leaves its slot."""
    slot = slots[seq]
    result: JobResult | Qwen35Error
    try:
        token = slot.sampler.sample(context, slot.row)
        slot.tokens.append(token)
        ended = model.ends(token)
        stopped = not ended and slot.job.watch is not None and slot.job.watch(token)
        if not ended and not stopped and len(slot.tokens) < slot.job.limit:
            return
        result = JobResult(slot.tokens, ended, slot.prompt_seconds, time.perf_counter() - slot.started)
    except GrammarError as error:
        result = error
    slot.sampler.close()
    context.remove(0, seq=seq)
    del slots[seq]
    done(slot.number, result)
