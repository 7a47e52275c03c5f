"""Token ids in, token ids out: many requests in one context, of which each step evaluates a part of all.

A step is a call with the last tokens of all answers (`decoding`), so that the weights are read once for all of them,
and a chunk of one prompt (`prefill`), as large as the answers can wait for. llama.cpp's recurrent layers take equally
many tokens of each sequence: a chunk in the same call would be computed apart in any case, and so the tokens that were
sampled are given out before it. It does not depend on text, messages or images: an image is a `MediaChunk`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from qwen35_gguf.errors import ContextError, Qwen35Error, RpcServerError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.ahead import Ahead
from qwen35_gguf.runtime.engine.chunk_size import ChunkSize
from qwen35_gguf.runtime.engine.decoding import Decoder
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.drafts.mtp import Drafter, head_context
from qwen35_gguf.runtime.engine.forest.forest import Forest
from qwen35_gguf.runtime.engine.forest.live_sequence import CACHED_STATES, LiveSequence
from qwen35_gguf.runtime.engine.forest.reuse import CacheInfo
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
from qwen35_gguf.runtime.engine.image_encoding import ImageEncoding
from qwen35_gguf.runtime.engine.job import End, Job, Run, logged
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk, Prompt, n_cells
from qwen35_gguf.runtime.engine.prefill import Prefill
from qwen35_gguf.runtime.engine.prompts import Prompts
from qwen35_gguf.runtime.engine.shared_context import context_of
from qwen35_gguf.runtime.engine.snapshot import Counters, Snapshot, slot_of
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model

MAX_PARALLEL = 64
MAX_GAP = 0.25

log = logging.getLogger(__name__)


class Scheduler(Closing):
    """Several sequences in one context. One thread at a time may call it.

    Attributes:
        model: what it was made for.
        n_ctx: cells that a sequence may take.
        main: the context of the main model.
        message_start: the token that begins a message.
        forest: what is known of earlier prompts.
        wake: is called, by any thread, when a step that had nothing to do would have something.

    """

    def __init__(
        self,
        model: Model,
        spec: ContextSpec,
        *,
        parallel: int = 1,
        draft: Depth = 0,
        message_start: int | None = None,
        cache_bytes: int | None = None,
        cached_states: int = CACHED_STATES,
        store: StateStore | None = None,
        max_gap: float = MAX_GAP,
        deterministic: bool = False,
        ngrams: bool = True,
        head: Model | None = None,
    ) -> None:
        """Make the contexts.

        Args:
            model: must outlive it; loaded with its MTP head, if it is to draft.
            spec: of a context for one sequence; what others and drafts need is added.
            parallel: sequences, each with `spec.n_ctx` cells.
            draft: tokens drafted in each step, 0 to 4, or "auto".
            message_start: the token that begins a message: states are copied before it.
            cache_bytes: of states in memory; None: of `cached_states` recurrent states.
            cached_states: see there.
            store: where states are kept between runs.
            max_gap: seconds that an answer waits for another's prompt.
            deterministic: what runs beside a sequence changes nothing in it, not even by rounding.
            ngrams: let n-grams of prompts and answers draft, too.
            head: holds the MTP head, if the model does not; must outlive it.

        Raises:
            ModelError: there is not enough memory, or llama.cpp refuses.

        """
        self.model, self.n_ctx, self.message_start = model, spec.n_ctx, message_start
        head = model if model.has_head else head
        draft = draft if head is not None or (ngrams and not deterministic) else 0
        spec = context_of(spec, parallel, draft, separate=deterministic)
        self.main = Context(model, spec, hidden=head is not None and spec.n_rs_seq > 0)
        self._head: Context | None = None
        self._encoding, self._store = ImageEncoding(), store
        try:
            if head is not None and spec.n_rs_seq:
                self._head = head_context(head, self.main)
        except BaseException:
            self.close()
            raise
        drafters = [Drafter(self._head, model.n_embd, seq) if self._head else None for seq in range(parallel)]
        self._sequences = [
            LiveSequence(self.main, self.n_ctx, seq, drafter, exact=deterministic)
            for seq, drafter in enumerate(drafters)
        ]
        self.forest = Forest(cache_bytes, cached_states, store, self._sequences, message_start)
        self._decoder = Decoder(self.main, self.n_ctx, draft, alone=deterministic, ngrams=ngrams)
        self._prefill = Prefill(self.main, self.forest, message_start, exact=deterministic)
        self._chunk = ChunkSize(max_gap, self.main.n_batch)
        self._ahead = Ahead(self._prefill, self._chunk)
        self._prompts = Prompts(self._prefill, self._chunk, self._encoding, alone=deterministic)
        self._fixed_chunks = deterministic
        self._step_seconds = 0.0
        self._uses = 0
        self.counters = Counters()
        self._waiting: deque[Run] = deque()
        self._runs: list[Run] = []  # in a sequence, or suspended
        self.wake: Callable[[], None] = lambda: None

    def save(self) -> None:
        """Write what the sequences hold to disk, so that the next run continues them; nothing runs any more."""
        self.forest.save()

    def warm_up(self) -> None:
        """Do what the first prompt would wait for: a call, measuring drafts, reading the newest states from disk."""
        if any(one.items for one in self._sequences):
            return
        self._prefill.warm_up()
        self._measure(self._sequences[0])
        if not self._fixed_chunks:  # deterministic: nothing is continued as it is
            self.forest.read_newest()

    def _measure(self, sequence: LiveSequence) -> None:
        if not self._decoder.measured and not any(one.items for one in self._sequences):
            self._decoder.measure(sequence.drafter)

    def close(self) -> None:
        """Free the contexts."""
        self._encoding.close()
        if self._store is not None:
            self._store.close()
        if self._head is not None:
            self._head.close()
        self.main.close()

    @property
    def parallel(self) -> int:
        """The number of sequences."""
        return len(self._sequences)

    @property
    def unfinished(self) -> int:
        """The number of jobs that are not over, and are not ended before the next call; any thread may ask."""
        return sum(not run.cancelled for run in {*list(self._waiting), *list(self._runs)})  # one may be on its way

    @property
    def request_seconds(self) -> float:
        """Seconds that a job has taken on average, without waiting."""
        done = self.counters
        return (done.prompt_seconds + done.answer_seconds) / max(1, done.requests)

    @property
    def waits(self) -> bool:
        """Whether there is something to do later: jobs wait for a sequence, or an answer is evaluated ahead."""
        return bool(self._waiting) or self._ahead.waits

    @property
    def ready(self) -> bool:
        """Whether a step would certainly do something: a paused answer is read again, or an image is encoded."""
        answers = (run.phase in ("answer", "suspended") and run.job.wants() for run in self._runs)
        return any(answers) or any(run.phase == "prompt" and not run.encoding for run in self._runs)

    def info(self) -> CacheInfo:
        """Return what is held of earlier prompts, and what became of the last one."""
        return self.forest.info()

    def snapshot(self, queue_limit: int | None = None) -> Snapshot:
        """Return what it does now and has done so far; any thread may ask."""
        runs, forest = list(self._runs), self.forest
        at = {live.seq: run for run in runs if (live := run.sequence) is not None}
        return Snapshot(
            tuple(slot_of(one.seq, len(one.items), at.get(one.seq)) for one in self._sequences),
            len(self._waiting),
            sum(run.phase == "suspended" for run in runs),
            queue_limit,
            forest.cache.n_bytes,
            forest.cache.max_bytes,
            len(forest.stored),
            self.counters.copy(),
        )

    # ---- jobs ----------------------------------------------------------------------------------------------------

    def check_prompt(self, prompt: Prompt) -> int:
        """Count the cells of a prompt that can be evaluated.

        Raises:
            ContextError: it does not fit into the context, or does not end with a token.

        """
        if not prompt or isinstance(prompt[-1], MediaChunk):
            raise ContextError("prompt: is empty or does not end with text; add some")
        total = n_cells(prompt)
        if total > self.n_ctx:
            raise ContextError(f"prompt: {total:,} tokens do not fit into a context of {self.n_ctx:,}; raise n_ctx")
        return total

    def add(self, job: Job) -> Run:
        """Let a job wait for its turn; errors as of `check_prompt`."""
        self.check_prompt(job.prompt)
        run = Run(job)
        self.enter(run)
        return run

    def enter(self, run: Run) -> None:
        """Let a run wait for its turn, whose prompt is checked."""
        self._waiting.append(run)

    def end(self, run: Run, error: Exception) -> None:
        """End a job with an error, unless it is over."""
        if run.phase != "over":
            self._end(run, error)

    def end_unstarted(self, error: Exception) -> None:
        """End jobs that wait, and those that are read piece by piece."""
        for run in (*self._runs, *self._waiting):
            if run.job.streams or run.phase == "waiting":
                self._end(run, error)

    def end_all(self, error: Exception) -> None:
        """End all jobs with an error."""
        for run in (*self._runs, *self._waiting):
            self._end(run, error)
        self._ahead.drop()

    def run(self, job: Job) -> Run:
        """Run a job, and all others, until it is over."""
        run = self.add(job)
        while run.phase != "over":
            if not self.step():
                time.sleep(0.001)
        return run

    # ---- steps ---------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Advance all answers by a call and one prompt by a chunk, or look ahead; report whether anything was done."""
        try:
            decoded = self._decode()
            if self._evaluate_prompts(beside=decoded) or decoded:
                self._ahead.rest()
                return True
            return self._ahead.advance()
        except RpcServerError as error:
            self.end_all(error)
            return True

    def _decode(self) -> bool:
        runs = [run for run in self._runs if run.phase == "answer" and run.job.wants()]
        if not runs:
            return False
        start = time.perf_counter()
        try:
            for run, end in self._decoder.step(runs):
                if isinstance(end, Exception) and run.live.in_step:
                    self._fail(run, end)
                else:
                    self._end(run, end)
        except RpcServerError:
            raise
        except Qwen35Error as error:
            for run in runs:
                self._fail(run, error)
        now = time.perf_counter()
        self._step_seconds = now - start
        self.counters.add_step(runs, now)
        return True

    def _evaluate_prompts(self, *, beside: bool) -> bool:
        """Evaluate parts of prompts, beside answers or alone; report whether there were any."""
        self._wake_suspended()
        before, seconds = self._prompts.rows, self._step_seconds if beside else None
        for run, found in self._prompts.advance(self._runs, self._admit, lambda: self.wake(), seconds):
            if isinstance(found, Exception):
                self._fail(run, found)
            else:
                self._first_token(run, found)
        return self._prompts.rows > before

    def _first_token(self, run: Run, row: int) -> None:
        run.phase, run.evaluated = "answer", time.perf_counter()
        run.stepped = run.evaluated
        try:
            end: End | Exception | None = self._decoder.sample(run, row)
        except RpcServerError:
            raise
        except Exception as error:
            end = error
        if end is not None:
            self._end(run, end)

    # ---- sequences -----------------------------------------------------------------------------------------------

    def _admit(self) -> Run | None:
        """Give the job that waits longest a sequence; None if there is no job or no sequence."""
        if not self._waiting:
            return None
        taken = {run.live.seq for run in self._runs if run.sequence is not None}
        idle = [one for one in self._sequences if one.seq not in taken] or self._give_way()
        if not idle:
            return None
        run = self._waiting.popleft()
        self._runs.append(run)
        try:
            self._enter(run, idle)
        except RpcServerError:
            raise
        except Exception as error:
            self._fail(run, error)
        return run

    def _enter(self, run: Run, idle: list[LiveSequence]) -> None:
        run.sequence = self.forest.choose(idle, run.saved.items if run.saved else run.items)
        self._ahead.drop(run.sequence)
        self._uses += 1
        run.sequence.used = self._uses
        if run.saved is not None:
            others = [one for one in self._sequences if one is not run.sequence]
            saved, run.saved, run.phase = run.saved, None, "answer"
            run.sequence.resume(saved, self.forest.cache, others)
            return
        self._measure(run.sequence)
        run.began, run.phase = time.perf_counter(), "prompt"
        self._prefill.begin(run, run.sequence)

    def _give_way(self) -> list[LiveSequence]:
        """Suspend an answer that nobody reads, for a job that waits."""
        for run in self._runs:
            if run.phase == "answer" and not run.job.wants() and run.job.yields():
                live = run.live
                try:
                    run.saved = live.state()
                except RpcServerError:
                    raise
                except Exception as error:  # as of too little memory: it stays where it is
                    log.info("an answer that nobody reads does not give way: %s", error)
                    continue
                run.sequence, run.phase = None, "suspended"
                live.n_prompt = 0  # it is kept already
                return [live]
        return []

    def _wake_suspended(self) -> None:
        """Let answers that gave way wait for a sequence again as soon as they are read."""
        for run in [run for run in self._runs if run.phase == "suspended" and run.job.wants()]:
            run.phase = "waiting"
            self._runs.remove(run)
            self._waiting.append(run)

    # ---- ends ----------------------------------------------------------------------------------------------------

    def _fail(self, run: Run, error: Exception) -> None:
        """End a run whose sequence may be of any state."""
        if run.sequence is not None:
            run.sequence.clear()
        self._end(run, error)

    def _end(self, run: Run, result: End | Exception) -> None:
        if run.phase == "over":
            return
        run.phase = "over"
        if run in self._runs:
            self._runs.remove(run)
        else:
            self._waiting.remove(run)
        if run.sequence is not None:
            if not isinstance(result, Exception) and not self._fixed_chunks:
                self._ahead.add(run)
            self._uses += 1
            run.sequence.used, run.sequence = self._uses, None
        run.saved = None
        with logged():
            run.job.sampler.close()
        self.counters.add_run(run, time.perf_counter(), failed=isinstance(result, Exception))
        with logged():
            run.job.done(result if isinstance(result, Exception) else run.outcome(result, time.perf_counter()))
