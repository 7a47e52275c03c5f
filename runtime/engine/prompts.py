"""Which prompts are evaluated in the next calls, and how much of them: what answers can wait for.

Prompts that come together begin their answers together, if no answer runs: each is evaluated up to the last message,
and what is left of all of them is one call. An answer that began before would take turns with the prompts of others,
in small calls of which each has a fixed cost; the others would wait longer for that, and the whole for less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from qwen35_gguf.errors import RpcServerError
from qwen35_gguf.runtime.engine.chunk_size import LEAST, ChunkSize
from qwen35_gguf.runtime.engine.image_encoding import ImageEncoding
from qwen35_gguf.runtime.engine.job import Run
from qwen35_gguf.runtime.engine.prefill import Prefill

HOLD = 3.0  # seconds that a prompt waits at most for those that came with it

Found = tuple[Run, int | Exception]


class Prompts:
    """Evaluates the prompts of runs in turns.

    Attributes:
        rows: evaluated so far.

    """

    def __init__(self, prefill: Prefill, chunk: ChunkSize, encoding: ImageEncoding, *, alone: bool) -> None:
        """Take what evaluates.

        Args:
            prefill: evaluates parts of prompts.
            chunk: knows what they cost.
            encoding: encodes images beside.
            alone: evaluate each prompt in calls that depend on it alone.

        """
        self._prefill, self._chunk, self._encoding, self._alone = prefill, chunk, encoding, alone
        self.rows = 0

    def advance(
        self,
        runs: Sequence[Run],
        admit: Callable[[], Run | None],
        wake: Callable[[], None],
        step_seconds: float | None,
    ) -> Iterator[Found]:
        """Evaluate parts of prompts, until an answer can begin, or what the answers can wait for is over.

        Args:
            runs: those that have a sequence.
            admit: gives one more run a sequence; None: there is none, or no sequence.
            wake: is called when an image is encoded.
            step_seconds: that the next step of answers takes; None: there are none.

        Yields:
            A run whose prompt is evaluated, and the row of the last call that has its logits, which is valid until the
            next; or one that fails, and why.

        """
        begun, done = time.perf_counter(), 0
        most = self._chunk.n_batch
        least = min(LEAST, most)
        while done < most:
            start = time.perf_counter()
            rows = most
            if step_seconds is not None and not self._alone:
                # Calls end at messages: each has a fixed part, so that the time counts and not the rows.
                rows = self._chunk.rows(step_seconds + start - begun)
                rows = rows if done else max(least, rows)
            if rows < least:
                return
            part = self._choose(runs, admit, beside=step_seconds is not None)
            if not part:
                return
            try:
                count = self._evaluate(part, rows, wake)
            except RpcServerError:
                raise
            except Exception as error:
                yield from ((run, error) for run in part)
                return
            if not count:
                continue  # with another one
            self._chunk.record(count, time.perf_counter() - start)
            done += count
            self.rows += count
            each = count // len(part)
            complete = len(part[0].live.items) == len(part[0].items)
            if complete:
                yield from ((run, each * number - 1) for number, run in enumerate(part, 1))
            if complete and step_seconds is None:
                return

    def _evaluate(self, part: list[Run], rows: int, wake: Callable[[], None]) -> int:
        """Evaluate one prompt, or the ends of several; return the rows, 0 if an image is to be encoded before."""
        if len(part) > 1:
            del part[max(1, rows // self._prefill.last_rows(part[0])) :]
        count = self._prefill.finish(part) if len(part) > 1 else self._prefill.advance(part[0], rows)
        if count:
            self._prefill.wait()
        else:
            self._encoding.begin(part[0], wake)
        return count

    def _choose(self, runs: Sequence[Run], admit: Callable[[], Run | None], *, beside: bool) -> list[Run]:
        """Choose the prompts of the next call: those of which only the end is left, or one of the others."""
        prompts = [run for run in runs if run.phase == "prompt" and not run.encoding and not run.cancelled]
        if self._alone:
            return self._admitted(prompts, admit)[:1]
        ends = [run for run in prompts if self._prefill.last_rows(run)]
        others = [run for run in prompts if run not in ends]
        while not others and not (ends and beside) and (more := self._admitted([], admit)):
            (ends if self._prefill.last_rows(more[0]) else others).append(more[0])
        if ends and (beside or not others or not self._worth_waiting(ends, others)):
            rows = self._prefill.last_rows(ends[0])
            return [run for run in ends if self._prefill.last_rows(run) == rows]
        return others[:1]

    def _admitted(self, prompts: list[Run], admit: Callable[[], Run | None]) -> list[Run]:
        """Let one more run begin if there is no prompt."""
        while not prompts and (run := admit()) is not None:
            if run.phase == "prompt":
                prompts = [run]
        return prompts

    def _worth_waiting(self, ends: Sequence[Run], others: Sequence[Run]) -> bool:
        """Report whether the prompts that are complete but for their ends wait for the others."""
        now = time.perf_counter()
        for run in ends:
            run.held = run.held or now
        left = sum(self._chunk.seconds(run.total - run.live.cells) for run in others)
        return now - min(run.held for run in ends) + left <= HOLD
