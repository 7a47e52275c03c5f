"""The thread in which a model computes: it advances the schedulers, and takes orders between two steps."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from qwen35_gguf.errors import ClosedError, QueueFullError
from qwen35_gguf.runtime.calls.call import Call, Cancelled
from qwen35_gguf.runtime.engine.job import Job, Run
from qwen35_gguf.runtime.engine.scheduler import Scheduler

Result = TypeVar("Result")

POLL = 0.02  # seconds after which it looks again whether a stream that nobody reads gives way

log = logging.getLogger(__name__)


class EngineThread:
    """Runs schedulers, which no other thread may touch while they are in it.

    It is started by the first order, and holds nothing but the schedulers: a model that is dropped can be freed.
    """

    def __init__(self, name: str) -> None:
        """Begin without a scheduler; `name` is the model's, for messages."""
        self._name, self._pid = name, os.getpid()
        self._condition = threading.Condition()
        self._orders: deque[Callable[[], None]] = deque()
        self._schedulers: list[Scheduler] = []
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._ordered: list[Run] = []  # which the thread has not taken yet

    def add(self, scheduler: Scheduler) -> None:
        """Advance a scheduler, too."""
        scheduler.wake = self._notify
        self.ask(lambda: self._schedulers.append(scheduler))

    def remove(self, scheduler: Scheduler) -> None:
        """Advance a scheduler no longer; what it runs ends."""

        def end() -> None:
            scheduler.end_all(Cancelled())
            self._schedulers.remove(scheduler)

        self.ask(end)

    def submit(self, scheduler: Scheduler, jobs: Sequence[Job], call: Call, *, queue_limit: int | None = None) -> None:
        """Let jobs of a call wait for their turns.

        Args:
            scheduler: runs them.
            jobs: each fits into the context.
            call: to which they belong.
            queue_limit: of jobs that wait; None: any number may.

        Raises:
            QueueFullError: too many wait.
            ClosedError: the thread was stopped.

        """
        runs = [Run(job) for job in jobs]
        with self._condition:
            unfinished = scheduler.unfinished + sum(not run.cancelled for run in self._ordered)
            if queue_limit is not None and unfinished + len(jobs) > scheduler.parallel + queue_limit:
                seconds = max(
                    1.0, scheduler.request_seconds * (unfinished - scheduler.parallel + 1) / scheduler.parallel
                )
                message = f"{self._name}: {unfinished} requests run or wait already; try again in {seconds:.0f} s"
                raise QueueFullError(message, seconds)
            self._ordered += runs

        def add() -> None:
            with self._condition:  # it is counted once
                for run in runs:
                    scheduler.enter(run)
                    self._ordered.remove(run)

        def end() -> None:
            for run in runs:
                scheduler.end(run, Cancelled())

        def stop() -> None:
            for run in runs:
                run.cancelled = True
            self.order(end, quiet=True)

        self.order(add)
        call.begin(stop, self._notify)

    def ask(self, question: Callable[[], Result]) -> Result:
        """Run a function between two steps, and return its result, or raise its error."""
        answer: Future[Result] = Future()

        def run() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        if threading.current_thread() is self._thread:
            return question()
        self.order(run)
        return answer.result()

    def order(self, order: Callable[[], None], *, quiet: bool = False) -> None:
        """Let a function run between two steps.

        Raises:
            ClosedError: the thread was stopped, unless `quiet`.

        """
        with self._condition:
            if self._stopped:
                if not quiet:
                    raise ClosedError(f"{self._name}: the model was closed; load it again")
                return
            self._orders.append(order)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="qwen35-engine", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def stop(self) -> None:
        """End everything; a second call does nothing, and one in a forked process neither."""
        if os.getpid() != self._pid:
            return
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _notify(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _work(self) -> None:
        while True:
            self._carry_out()
            if self._stopped:
                break
            steps = [self._step(scheduler) for scheduler in self._schedulers]
            if not any(steps):
                with self._condition:
                    if not self._orders and not self._stopped and not self._any_ready():
                        waits = any(scheduler.waits for scheduler in self._schedulers)
                        self._condition.wait(POLL if waits else None)
        self._carry_out()  # those that came just before the end
        while self._schedulers:
            self._schedulers.pop().end_all(ClosedError(f"{self._name}: the model was closed; load it again"))

    def _carry_out(self) -> None:
        while self._orders:
            try:
                self._orders.popleft()()
            except Exception:  # without the thread everybody would wait for ever
                log.exception("an order failed")

    def _any_ready(self) -> bool:
        """Report whether a step would do something; what makes it so takes the lock afterwards."""
        return any(scheduler.ready for scheduler in self._schedulers)

    def _step(self, scheduler: Scheduler) -> bool:
        try:
            return scheduler.step()
        except Exception as error:
            log.exception("the engine failed")
            scheduler.end_all(error)
            return True
