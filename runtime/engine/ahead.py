"""Evaluate what the next turn of a conversation begins with, while nobody asks for anything.

A chat template gives an answer in history another form than the one in which it was generated: without its think block.
The next turn would evaluate it again, while its user waits.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from qwen35_gguf.errors import RpcServerError
from qwen35_gguf.runtime.engine.chunk_size import LEAST, ChunkSize
from qwen35_gguf.runtime.engine.forest.live_sequence import LiveSequence
from qwen35_gguf.runtime.engine.job import Job, Run
from qwen35_gguf.runtime.engine.media_chunk import n_cells
from qwen35_gguf.runtime.engine.prefill import Prefill

AFTER = 0.03  # seconds without work after which it begins: a program asks again sooner than that
SHARE = 0.5  # of the bound for a stream, which a request waits at most

log = logging.getLogger(__name__)


class Ahead:
    """Answers that nothing follows yet, and how far they are evaluated ahead."""

    def __init__(self, prefill: Prefill, chunk: ChunkSize) -> None:
        """Evaluate with `prefill`, in parts as `chunk` knows them."""
        self._prefill, self._chunk = prefill, chunk
        self._answered: dict[int, tuple[LiveSequence, Job]] = {}
        self._run: Run | None = None
        self._idle_since = 0.0

    @property
    def waits(self) -> bool:
        """Whether there is something to evaluate."""
        return bool(self._answered) or self._run is not None

    def add(self, run: Run) -> None:
        """Evaluate the answer of a run, whose sequence has nothing else to do now."""
        if run.job.follow is not None:
            self._answered[run.live.seq] = run.live, run.job
            self.rest()

    def rest(self) -> None:
        """Wait for a while: there was something else to do."""
        self._idle_since = time.perf_counter()

    def drop(self, sequence: LiveSequence | None = None) -> None:
        """Evaluate nothing in a sequence that a request takes, or in none."""
        if sequence is None:
            self._answered.clear()
            self._run = None
            return
        self._answered.pop(sequence.seq, None)
        if self._run is not None and self._run.live is sequence:
            self._run = None

    def advance(self) -> bool:
        """Evaluate a part; report whether there was one, and time for it.

        Raises:
            RpcServerError: an RPC server is gone.

        """
        if not self.waits or time.perf_counter() - self._idle_since < AFTER:
            return False
        run = self._run
        try:
            run = run or self._begin()
            if run is not None:
                self._evaluate(run)
        except RpcServerError:
            raise
        except Exception as error:  # it is evaluated when it is asked for
            log.info("the end of a conversation is not evaluated ahead: %s", error)
            if run is not None:
                run.live.clear()
            self._run = None
        return True

    def _begin(self) -> Run | None:
        """Begin with the answer that came last; None if nothing of it can be evaluated ahead."""
        sequence, job = next(reversed(self._answered.values()))
        try:
            prompt = job.follow() if job.follow is not None else None
            if prompt and n_cells(prompt) <= sequence.n_ctx:
                run = Run(replace(job, prompt=prompt, progress=lambda *_: None, follow=None))
                self._run = run if self._prefill.begin_ahead(run, sequence) else None
            return self._run
        finally:
            del self._answered[sequence.seq]  # last, for those who ask whether something waits

    def _evaluate(self, run: Run) -> None:
        start = time.perf_counter()
        rows = max(LEAST, self._chunk.rows((1 - SHARE) * self._chunk.max_gap))
        count = self._prefill.advance(run, rows)
        self._prefill.wait()
        if count:
            self._chunk.record(count, time.perf_counter() - start)
        if not count or len(run.live.items) == len(run.items):
            self._run = None
