"""Requests in the thread of the engine: submitted as jobs, read as events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import ParamSpec

from qwen35_gguf.errors import RpcServerError
from qwen35_gguf.runtime.calls.call import Call, Cancelled
from qwen35_gguf.runtime.calls.lifetime import Lifetime
from qwen35_gguf.runtime.chat import completion
from qwen35_gguf.runtime.chat.completion import Events, Request
from qwen35_gguf.runtime.engine.job import Job, Progress
from qwen35_gguf.runtime.engine.media_chunk import n_cells
from qwen35_gguf.runtime.engine.scheduler import Scheduler
from qwen35_gguf.runtime.loading import LoadedModel
from qwen35_gguf.runtime.many_results import Results

P = ParamSpec("P")


class EngineCalls:
    """The calls of a model.

    Attributes:
        lost: an RPC server is gone, and with it what was computed and stored there.

    """

    def __init__(self, lifetime: Lifetime) -> None:
        """Begin without calls; `lifetime` is the model's."""
        self._lifetime = lifetime
        self.lost = False

    def begin(
        self,
        loaded: LoadedModel,
        asked: Sequence[Request],
        call: Call,
        on_progress: Progress | None = None,
        *,
        pieces: bool,
    ) -> Events:
        """Submit requests, and return an iterator over their events; what is wrong is refused now.

        Args:
            loaded: the model.
            asked: the requests, which are numbered.
            call: takes the events.
            on_progress: is called by the iterator.
            pieces: whether pieces of the answers are wanted, too.

        Raises:
            BusyError: the caller is a callback of a running call.
            ContextError: a prompt does not fit into the context.
            QueueFullError: too many requests wait already.

        """
        self._lifetime.check_idle()
        for request in asked:
            loaded.engine.check_prompt(request.prompt.items)
        progress = on_progress is not None
        jobs = [_job(loaded, each, call, number, pieces=pieces, progress=progress) for number, each in enumerate(asked)]
        loaded.thread.submit(loaded.engine, jobs, call, queue_limit=loaded.plan.options.queue_limit)
        return self._events(call, on_progress)

    def _events(self, call: Call, on_progress: Progress | None) -> Events:
        """Read a call; the end of the iterator ends it."""
        report = None if on_progress is None else self.guarded(on_progress)
        try:
            while True:
                number, event = call.get()
                if isinstance(event, completion.Evaluated):
                    if report is not None:
                        report(event.done, event.total)
                    continue
                if isinstance(event, RpcServerError):
                    self.lost = True
                yield number, event
        except Cancelled:
            self._lifetime.check_open()
            raise
        finally:
            call.cancel()

    def guarded(self, function: Callable[P, None]) -> Callable[P, None]:
        """Let a callback that uses the model be refused."""

        def call(*arguments: P.args, **keywords: P.kwargs) -> None:
            with self._lifetime.callback():
                function(*arguments, **keywords)

        return call

    def answer_many(
        self, loaded: LoadedModel, made: Mapping[int, Request], call: Call, results: Results, parallel: int
    ) -> None:
        """Answer several requests, up to `parallel` side by side, each with its number.

        Raises:
            BusyError: the caller is a callback of a running call.
            Qwen35Error: of a request, unless the results keep it.

        """
        self._lifetime.check_idle()
        with _sequences(loaded, min(parallel, len(made)), made.values()) as engine:
            jobs = [_job(loaded, each, call, at, pieces=False) for at, each in made.items()]
            try:
                loaded.thread.submit(engine, jobs, call)
                for _ in made:
                    at, event = call.get()
                    self.lost = self.lost or isinstance(event, RpcServerError)
                    with results.noting(at), self._lifetime.callback():
                        if isinstance(event, Exception):
                            raise event
                        results.add(at, completion.completion(event, made[at].answer_type))
            except Cancelled:
                self._lifetime.check_open()
                raise
            finally:
                call.cancel()


def _job(
    loaded: LoadedModel, request: Request, call: Call, number: int, *, pieces: bool, progress: bool = False
) -> Job:
    """Make a request a job that gives its events to a call, with a number."""
    return completion.make_job(
        loaded.model,
        request,
        lambda event: call.put((number, event)),
        pieces=pieces,
        progress=progress,
        wants=call.wants,
        yields=call.yields,
        streams=call.streaming,
    )


@contextlib.contextmanager
def _sequences(loaded: LoadedModel, parallel: int, made: Collection[Request]) -> Iterator[Scheduler]:
    """Give as many sequences as are wanted: the model's, or some of a context of their own."""
    if parallel <= loaded.engine.parallel:
        yield loaded.engine
        return
    cells = max(n_cells(request.prompt.items) + request.limit for request in made)
    with loaded.more_sequences(parallel, cells) as engine:
        loaded.thread.add(engine)
        try:
            yield engine
        finally:
            loaded.thread.remove(engine)
