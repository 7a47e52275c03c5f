"""What goes wrong in one request, or around it, harms no other one, and leaves nobody waiting."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from inputs.scheduling import asked as scheduled
from inputs.scheduling.asked import GREEDY, finish
from oracles import mock_llama
from oracles.mock_llama import MockModel
from qwen35_gguf.errors import ClosedError, ModelError, QueueFullError
from qwen35_gguf.runtime.calls.call import Call
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.engine_thread import EngineThread
from qwen35_gguf.runtime.engine.forest.live_sequence import LiveSequence
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
from qwen35_gguf.runtime.engine.job import Job, Outcome, Run
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk
from qwen35_gguf.runtime.engine.sampling import Sampler
from qwen35_gguf.runtime.engine.scheduler import Scheduler

pytestmark = pytest.mark.unit

MODEL = MockModel()


@pytest.fixture(autouse=True)
def _mock(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_llama.use_mock(monkeypatch)


def scheduler(**options: Any) -> Scheduler:
    spec = ContextSpec(n_ctx=2048, n_batch=32)
    options = {"parallel": 2, "cache_bytes": 1 << 24, "message_start": 2, **options}
    return Scheduler(MODEL, spec, **options)  # type: ignore[arg-type]


class Asked(scheduled.Asked):
    """A request that is added when it is made."""

    run: Run

    def __init__(self, to: Scheduler, prompt: list[Any], limit: int = 12, **options: Any) -> None:
        super().__init__(prompt, limit)
        self.add(to, **options)

    def is_right(self) -> bool:
        return isinstance(self.results[0], Outcome) and self.tokens == MODEL.greedy(self.prompt, self.limit)


def prompt(seed: int, length: int = 20) -> list[int]:
    return [2, *(3 + (seed * 7 + at) % 40 for at in range(length - 1))]


def failing_once(function: Any, error: Exception, *, after: bool = False, only: Any = lambda *_: True) -> Any:
    """Raise an error in place of the next call, or after it."""
    left = [error]

    def call(*arguments: Any, **keywords: Any) -> Any:
        if not left or not only(*arguments):
            return function(*arguments, **keywords)
        if after:
            function(*arguments, **keywords)
        raise left.pop()

    return call


def fails(*_: object) -> None:
    raise RuntimeError("a callback")


# ---- the scheduler -------------------------------------------------------------------------------------------------


def test_an_end_that_fails_ends_nobody_else() -> None:
    with scheduler() as one:
        broken, other = Asked(one, prompt(1), 3, done=fails), Asked(one, prompt(2))
        finish(one)
        assert len(broken.tokens) == 3
        assert other.is_right()
        broken, other = Asked(one, prompt(3), done=fails), Asked(one, prompt(4))
        one.step()
        one.end_all(TimeoutError())
        assert isinstance(other.results[0], TimeoutError)


def test_a_request_whose_sampler_cannot_be_closed_is_answered() -> None:
    with scheduler() as one:
        asked = Asked(one, prompt(1))
        object.__setattr__(asked.run.job.sampler, "close", fails)
        finish(one)
        assert asked.is_right()


def test_a_call_that_fails_without_a_reason_leaves_nothing_wrong_behind() -> None:
    """What llama.cpp evaluated, and nobody recorded, is not taken for the answer's own."""
    with scheduler(parallel=1) as one:
        first = Asked(one, prompt(1), 30)
        while len(first.tokens) < 5:
            one.step()
        evaluate = one.main.evaluate_parts
        one.main.evaluate_parts = failing_once(evaluate, RuntimeError("interrupted"), after=True)  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="interrupted") as error:
            one.step()
        one.end_all(error.value)  # as the engine's thread does
        again = Asked(one, [*first.prompt, *first.tokens, 2, 9])
        finish(one)
        assert again.is_right()


def test_a_call_that_fails_ends_only_the_answers_in_it() -> None:
    with scheduler(deterministic=True) as one:  # a call for each
        asked = [Asked(one, prompt(seed)) for seed in range(2)]
        while not all(each.tokens for each in asked):
            one.step()
        evaluate, broken = one.main.evaluate_parts, asked[1].run.live.seq
        one.main.evaluate_parts = failing_once(  # type: ignore[method-assign]
            evaluate, ModelError("no room"), only=lambda parts: parts[0].seq == broken
        )
        finish(one)
        assert asked[0].is_right()
        assert isinstance(asked[1].results[0], ModelError)
        again = Asked(one, prompt(1))
        finish(one)
        assert again.is_right()


def test_a_prompt_that_cannot_begin_ends_nobody_else() -> None:
    with scheduler() as one:
        running = Asked(one, prompt(1), 40)
        one.step()
        one.forest.prepare = failing_once(one.forest.prepare, OSError("gone"))  # type: ignore[method-assign]
        broken, other = Asked(one, prompt(2)), Asked(one, prompt(3))
        finish(one)
        assert isinstance(broken.results[0], OSError)
        assert running.is_right()
        assert other.is_right()


def test_an_answer_that_cannot_give_way_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with scheduler(parallel=1) as one:
        first = Asked(one, prompt(1), 30)
        while len(first.tokens) < 3:
            one.step()
        first.wanted = False
        monkeypatch.setattr(LiveSequence, "state", failing_once(LiveSequence.state, ModelError("no memory")))
        second = Asked(one, prompt(2))
        one.step()
        finish_both(one, first, second)


def finish_both(one: Scheduler, first: Asked, second: Asked) -> None:
    while not second.results:
        one.step()
    first.wanted = True
    finish(one)
    assert first.is_right()
    assert second.is_right()


def test_a_snapshot_may_meet_a_request_that_ends() -> None:
    with scheduler() as one:
        found = [one._sequences[0]]

        class Ending:
            phase, total, number = "prompt", 1, 1

            @property
            def sequence(self) -> LiveSequence | None:
                return found.pop() if found else None

        one._runs.append(Ending())  # type: ignore[arg-type]
        assert [slot.phase for slot in one.snapshot().slots] == ["idle", "idle"]
        one._runs.clear()


def test_an_image_is_not_encoded_for_a_request_that_is_over() -> None:
    begun, go, encoded = threading.Event(), threading.Event(), list[str]()

    def image(key: str) -> MediaChunk:
        def encode() -> None:
            begun.set()
            assert go.wait(60)
            encoded.append(key)

        evaluate = lambda context, place: context.evaluate_image(key, place, 5)  # noqa: E731
        return MediaChunk(key, 20, 5, evaluate, encode, lambda: key in encoded)

    with scheduler() as one:
        first, second = (Asked(one, [*prompt(seed), image(key), 5]) for seed, key in enumerate("ab"))
        while not (second.run.encoding and begun.wait(0)):
            one.step()
        one.end(second.run, TimeoutError())
        go.set()
        while not first.results:
            one.step()
    assert encoded == ["a"]  # the thread of images has ended


def test_what_only_fills_a_call_is_not_counted_as_drafted() -> None:
    """A call takes equally many tokens of each answer: those that draft fewer are filled up."""
    with scheduler(draft=3) as one:

        def fill(answers: Sequence[Any]) -> None:
            for number, each in enumerate(answers):
                count = min(3, each.most)
                known = MODEL.greedy([*each.items, *each.known], count) if number else []
                each.drafts = known or [each.known[-1]] * count
                each.padding = 0 if known else count

        one._decoder._drafting.draft = fill  # type: ignore[union-attr, method-assign, assignment]
        asked = [Asked(one, prompt(seed), 13) for seed in range(2)]
        finish(one)
        assert all(each.is_right() for each in asked)
        drafts = [each.results[0].drafts for each in asked if isinstance(each.results[0], Outcome)]
        assert (drafts[0].drafted, drafts[0].accepted) == (0, 0)
        assert drafts[1].accepted == drafts[1].drafted == 9


# ---- its thread ----------------------------------------------------------------------------------------------------


@pytest.fixture
def thread() -> Any:
    made = EngineThread("m")
    yield made
    made.stop()


def test_an_order_that_fails_does_not_end_the_thread(thread: EngineThread) -> None:
    thread.order(fails)
    assert thread.ask(lambda: 5) == 5


def test_an_order_that_comes_while_the_thread_stops_is_carried_out(thread: EngineThread) -> None:
    """Else its caller would wait for ever."""
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(thread.ask(lambda: 5)), daemon=True)

    class Orders(deque[Any]):
        """At the moment when there are none, one comes, and the end."""

        def __bool__(self) -> bool:
            found = len(self) > 0
            if not found and not thread._stopped and not thread._condition._is_owned():  # type: ignore[attr-defined]
                asking.start()
                while not len(self):
                    time.sleep(0.001)
                thread._stopped = True
            return found

    thread.ask(lambda: None)
    thread._orders = Orders()
    while not asking.ident:
        thread._notify()
        time.sleep(0.001)
    asking.join(10)
    assert answers == [5]


def test_a_request_that_comes_while_the_thread_stops_is_refused(thread: EngineThread) -> None:
    with scheduler() as one:
        thread.add(one)
        thread.stop()
        with pytest.raises(ClosedError):
            submit(thread, one)


def submit(thread: EngineThread, one: Scheduler, queue_limit: int | None = None) -> Call:
    call = Call()
    job = Job(prompt(1), Sampler(MODEL, GREEDY, 0), 4, lambda _: (), call.put)  # type: ignore[arg-type]
    thread.submit(one, [job], call, queue_limit=queue_limit)
    return call


def test_a_request_counts_once_while_it_is_taken(thread: EngineThread) -> None:
    """Else the next one may be refused although there is room."""
    with scheduler() as one:
        thread.add(one)
        enter, refused, others = one.enter, list[Exception](), list[threading.Thread]()

        def another() -> None:
            try:
                submit(thread, one, queue_limit=0).get()
            except QueueFullError as error:
                refused.append(error)

        def slowly(run: Run) -> None:
            enter(run)
            if not others:
                others.append(threading.Thread(target=another))
                others[0].start()
                others[0].join(0.2)

        one.enter = slowly  # type: ignore[method-assign]
        submit(thread, one, queue_limit=0).get()
        others[0].join(60)
        assert not refused
        thread.remove(one)


# ---- copies that cannot be made ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [MemoryError(), ModelError("llama.cpp cannot copy its state")], ids=["memory", "model"]
)
@pytest.mark.parametrize("partial", [True, False], ids=["recurrent", "whole"])
def test_a_state_that_cannot_be_copied_costs_no_answer(
    tmp_path: Path,
    partial: bool,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is there to save time; conversations by turns would keep it, in memory and on disk."""
    store = StateStore(tmp_path, "m")
    with scheduler(parallel=1, store=store) as one:
        refused = []

        def fail(self: LiveSequence) -> None:
            refused.append(self)
            raise error

        monkeypatch.setattr(LiveSequence, "recurrent_state" if partial else "state", fail)
        turns = [prompt(seed, 1500 if not partial else 60) + prompt(seed + 1) for seed in (1, 5)]
        for turn in (*turns, *turns):
            asked = Asked(one, turn)
            finish(one)
            assert asked.is_right(), asked.results
        one.save()
        assert refused
        assert any("of a prompt is not kept" in record.getMessage() for record in caplog.records)
