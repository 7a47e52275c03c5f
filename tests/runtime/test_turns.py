"""Calls take turns in the order of arrival; open streams give way; nothing waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from qwen35_gguf.errors import BusyError, ClosedError, TimeLimitError
from qwen35_gguf.runtime import turns
from qwen35_gguf.runtime.turns import Call, Cancelled, Turns

pytestmark = pytest.mark.unit


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_calls_run_one_at_a_time_in_the_order_of_arrival() -> None:
    queue, order, inside = Turns("m"), list[int](), list[int]()

    def work(number: int) -> None:
        with queue.use(), queue.turn(Call()):
            inside.append(number)
            assert inside == [number]
            time.sleep(0.002)
            order.append(number)
            inside.clear()

    with queue.turn(Call()):
        threads = []
        for number in range(8):
            threads.append(started(lambda number=number: work(number)))
            wait_for(lambda number=number: len(queue._waiting) == number + 1)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_a_stream_gives_way_at_once_in_its_thread_and_after_a_while_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, stream = Turns("m"), Call(streaming=True)
    with queue.turn(stream) as other:
        assert other is None
    with queue.turn(Call()) as other:
        assert other is stream
    with queue.turn(stream):
        pass
    waited = threading.Event()

    def another() -> None:
        with queue.turn(Call()):
            waited.set()

    monkeypatch.setattr(turns, "IDLE", 1000.0)
    thread = started(another)
    wait_for(lambda: len(queue._waiting) == 1)
    for _ in range(3):
        with queue.turn(stream) as other:  # it passes those that wait
            assert other is stream
    assert not waited.is_set()
    queue.cancel(stream)  # over: it has no claim any more
    thread.join()
    assert waited.is_set()


def test_a_dropped_stream_has_no_claim() -> None:
    queue = Turns("m")
    with queue.turn(Call(streaming=True)):
        pass
    with queue.turn(Call()) as other:
        assert other is None


def test_a_call_that_waits_too_long_ends() -> None:
    queue = Turns("m")
    found: list[BaseException] = []

    def late() -> None:
        try:
            with queue.turn(Call.within(0.01)):
                pass
        except TimeLimitError as error:
            found.append(error)

    with queue.turn(Call()):
        started(late).join()
    assert "is not done after timeout=0.01 s" in str(found[0])
    assert isinstance(found[0], TimeoutError)
    with queue.turn(Call()):
        pass


def test_a_running_call_is_checked_and_a_cancelled_one_ends() -> None:
    queue, late, stream = Turns("m"), Call.within(0.0), Call(streaming=True)
    with pytest.raises(TimeLimitError):
        queue.check(late)
    queue.cancel(stream)
    with pytest.raises(Cancelled), queue.turn(stream):
        pass


def test_a_callback_may_not_use_the_model_that_calls_it() -> None:
    queue = Turns("m")
    with queue.turn(Call()), pytest.raises(BusyError, match="a callback may not use"), queue.turn(Call()):
        pass


def test_closing_waits_for_a_call_and_ends_what_streams_or_waits() -> None:
    queue, events = Turns("m"), list[str]()
    running, go_on = threading.Event(), threading.Event()
    stream = Call(streaming=True)

    def long() -> None:
        with queue.use(), queue.turn(Call()):
            running.set()
            go_on.wait()
            events.append("done")

    def waiting() -> None:
        with pytest.raises(ClosedError), queue.use(), queue.turn(Call()):
            pass
        events.append("refused")

    threads = [started(long)]
    running.wait()
    threads.append(started(waiting))
    wait_for(lambda: len(queue._waiting) == 1)
    closing = started(lambda: queue.close(lambda: events.append("freed")))
    threads[1].join()
    go_on.set()
    closing.join()
    threads[0].join()
    assert events == ["refused", "done", "freed"]
    queue.close(lambda: events.append("again"))
    assert events[-1] == "freed"
    with pytest.raises(ClosedError):
        queue.check(stream)
    with pytest.raises(ClosedError, match="m: the model was closed"), queue.use():
        pass


def test_closing_in_a_callback_frees_when_the_call_is_over() -> None:
    queue, events = Turns("m"), list[str]()
    with queue.use(), queue.turn(Call()):
        queue.close(lambda: events.append("freed"))
        events.append("closed")
    assert events == ["closed", "freed"]
