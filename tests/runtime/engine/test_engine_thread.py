"""The thread of the engine: orders between steps, calls from any thread, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from oracles import mock_llama
from oracles.mock_llama import MockModel
from qwen35_gguf.errors import BusyError, ClosedError, TimeLimitError
from qwen35_gguf.runtime.calls.call import RUN_AHEAD, Call, Cancelled, Scope
from qwen35_gguf.runtime.calls.lifetime import Lifetime
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.engine_thread import EngineThread
from qwen35_gguf.runtime.engine.job import Job
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling
from qwen35_gguf.runtime.engine.scheduler import Scheduler

pytestmark = pytest.mark.unit

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(autouse=True)
def _mock(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_llama.use_mock(monkeypatch)


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Engine:
    """A thread with a scheduler on the mock model."""

    def __init__(self, parallel: int = 1) -> None:
        self.model = MockModel()
        self.scheduler = Scheduler(self.model, ContextSpec(n_ctx=2048, n_batch=32), parallel=parallel)  # type: ignore[arg-type]
        self.thread = EngineThread("m")
        self.thread.add(self.scheduler)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.stop()

    def ask(self, prompt: list[int], limit: int, **options: Any) -> Call:
        call = Call(**options)

        def take(token: int) -> tuple[int, ...]:
            call.put(token)
            return ()

        sampler = Sampler(self.model, GREEDY, 0)  # type: ignore[arg-type]
        job = Job(prompt, sampler, limit, take, call.put, wants=call.wants, yields=call.yields, streams=call.streaming)
        self.thread.submit(self.scheduler, [job], call)
        return call


def read(call: Call) -> list[Any]:
    found: list[Any] = []
    while not found or isinstance(found[-1], int):
        found.append(call.get())
    return found


def test_calls_of_many_threads_each_get_their_own_tokens() -> None:
    with Engine(parallel=3) as engine:
        found: dict[int, list[Any]] = {}

        def work(number: int) -> None:
            found[number] = read(engine.ask([2, 3 + number, 5], 40, streaming=number % 2 == 0))

        for thread in [started(lambda number=number: work(number)) for number in range(12)]:
            thread.join()
        for number in range(12):
            assert found[number][:-1] == engine.model.greedy([2, 3 + number, 5], 40)


def test_a_stream_runs_ahead_pauses_and_resumes() -> None:
    with Engine() as engine:
        call = engine.ask([2, 3], 200, streaming=True)
        wait_for(lambda: not call.wants())
        assert call._events.qsize() == RUN_AHEAD
        assert read(call)[:-1] == engine.model.greedy([2, 3], 200)


def test_a_stream_that_is_not_read_gives_way() -> None:
    with Engine() as engine:
        stream = engine.ask([2, 3], 200, streaming=True)
        wait_for(lambda: not stream.wants())
        assert read(engine.ask([2, 9], 20))[:-1] == engine.model.greedy([2, 9], 20)
        assert read(stream)[:-1] == engine.model.greedy([2, 3], 200)


@pytest.mark.parametrize("waits", [False, True])
def test_a_cancelled_call_ends_where_it_is(waits: bool) -> None:
    with Engine() as engine:
        first = engine.ask([2, 3], 1500)
        call = engine.ask([2, 4], 1500) if waits else first
        call.cancel()
        with pytest.raises(Cancelled):
            read(call)
        first.cancel()
        wait_for(lambda: not engine.thread.ask(lambda: engine.scheduler._runs or engine.scheduler.waits))


def test_a_call_that_takes_too_long_ends() -> None:
    with Engine() as engine:
        blocking = engine.ask([2, 3], 2000)
        late = engine.ask([2, 4], 5, timeout=0.02)
        with pytest.raises(TimeLimitError, match=r"is not done after timeout=0.02 s"):
            read(late)
        blocking.cancel()
        assert read(engine.ask([2, 4], 5))[:-1] == engine.model.greedy([2, 4], 5)


def test_a_scope_ends_its_calls_now_and_later() -> None:
    with Engine() as engine:
        scope = Scope()
        with scope.entered():
            first = engine.ask([2, 3], 2000)
            scope.cancel()
            second = engine.ask([2, 4], 5)
        for call in (first, second):
            with pytest.raises(Cancelled):
                read(call)


def test_the_end_of_the_thread_ends_what_runs() -> None:
    engine = Engine()
    call = engine.ask([2, 3], 2000)
    call.get()
    engine.thread.stop()
    engine.thread.stop()
    assert isinstance(read(call)[-1], ClosedError)
    with pytest.raises(ClosedError):
        engine.ask([2, 3], 5)


# ---- the lifetime of a model -------------------------------------------------------------------------------------


def test_closing_waits_for_those_inside_and_refuses_others() -> None:
    life, events = Lifetime("m"), list[str]()
    running, resume = threading.Event(), threading.Event()

    def long() -> None:
        with life.use():
            running.set()
            resume.wait()
            events.append("done")

    thread = started(long)
    running.wait()
    closing = started(lambda: life.close(lambda: events.append("ended"), lambda: events.append("freed")))
    wait_for(lambda: "ended" in events)
    with pytest.raises(ClosedError, match="m: the model was closed"), life.use():
        pass
    resume.set()
    closing.join()
    thread.join()
    assert events == ["ended", "done", "freed"]
    life.close(lambda: None, lambda: events.append("again"))
    assert events[-1] == "freed"


def test_closing_in_a_callback_frees_when_the_call_is_over() -> None:
    life, events = Lifetime("m"), list[str]()
    with life.use(), life.callback():
        life.close(lambda: None, lambda: events.append("freed"))
        events.append("closed")
    assert events == ["closed", "freed"]


def test_a_callback_may_not_use_the_model_that_calls_it() -> None:
    life = Lifetime("m")
    with life.callback(), pytest.raises(BusyError, match="a callback may not use"):
        life.check_idle()
    life.check_idle()
