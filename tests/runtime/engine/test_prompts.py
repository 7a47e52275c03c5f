"""Prompts that come together begin their answers together; a long one keeps no other waiting.

On the mock model of test_scheduler.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from inputs.scheduling import asked as scheduled
from inputs.scheduling.asked import finish
from oracles import mock_llama
from oracles.mock_llama import MockModel
from qwen35_gguf.errors import ModelError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine import prompts
from qwen35_gguf.runtime.engine.scheduler import Scheduler
from qwen35_gguf.runtime.llama.batch import Part

pytestmark = pytest.mark.unit

START = 2  # begins a message
HEADER = [START, 3, 9]  # before an answer
SYSTEM = [START, *(3 + i % 40 for i in range(60))]


@pytest.fixture(autouse=True)
def _mock(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_llama.use_mock(monkeypatch)


class Asked(scheduled.Asked):
    """A question behind the system prompt, its answer, and the calls that there were before that."""

    def __init__(self, on: Scheduler, calls: list[Any], length: int, count: int = 6) -> None:
        super().__init__([*SYSTEM, START, *(3 + (length * 7 + i) % 40 for i in range(length)), *HEADER], count)
        self.calls, self.began = calls, 0
        self.add(on)

    def take(self, token: int) -> Sequence[int] | None:
        self.began = self.began or len(self.calls)
        return super().take(token)

    @property
    def right(self) -> bool:
        return self.tokens == MockModel().greedy(self.prompt, len(self.tokens)) and len(self.tokens) == 6


@pytest.fixture
def calls() -> list[list[int]]:
    """The rows of each part of each call."""
    return []


@pytest.fixture(params=[0, 2], ids=["plain", "drafts"])
def one(calls: list[list[int]], request: pytest.FixtureRequest) -> Iterator[Scheduler]:
    spec = ContextSpec(n_ctx=2048, n_batch=128)
    model: Any = MockModel()
    with Scheduler(model, spec, message_start=START, parallel=4, cache_bytes=1 << 24, draft=request.param) as made:
        evaluate = made.main.evaluate_parts

        def counted(parts: Sequence[Part]) -> None:
            calls.append([len(part.tokens) for part in parts])
            evaluate(parts)

        made.main.evaluate_parts = counted  # type: ignore[method-assign]
        yield made


def test_prompts_that_come_together_begin_their_answers_with_one_call(one: Scheduler, calls: list[list[int]]) -> None:
    asked = [Asked(one, calls, 10 + number) for number in range(4)]
    finish(one)
    assert all(each.right for each in asked)
    assert len({each.began for each in asked}) == 1
    assert [len(HEADER)] * 4 in calls
    assert sum(map(sum, calls[: asked[0].began])) == len(SYSTEM) + sum(11 + number + len(HEADER) for number in range(4))


def test_a_prompt_that_takes_longer_than_others_may_wait_begins_after_them(
    one: Scheduler, calls: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one._chunk, "seconds", lambda rows: prompts.HOLD * rows / 100)
    short, other, long = (Asked(one, calls, length) for length in (10, 20, 1000))
    finish(one)
    assert short.right
    assert other.right
    assert long.right
    assert short.began == other.began
    assert long.began > other.began + 5


def test_more_prompts_than_sequences_wait_for_no_others(one: Scheduler, calls: list[list[int]]) -> None:
    asked = [Asked(one, calls, 10 + number) for number in range(7)]
    finish(one)
    assert all(each.right for each in asked)
    assert len({each.began for each in asked[:4]}) == 1


def test_one_that_is_cancelled_keeps_no_other_waiting(one: Scheduler, calls: list[list[int]]) -> None:
    asked = [Asked(one, calls, 10 + number) for number in range(3)]
    one.end(list(one._waiting)[1], ModelError("gone"))
    finish(one)
    assert asked[0].right
    assert asked[2].right
    assert asked[0].began == asked[2].began


def test_a_call_that_fails_ends_those_that_shared_it(one: Scheduler, calls: list[list[int]]) -> None:
    asked = [Asked(one, calls, 10 + number) for number in range(3)]
    evaluate = one.main.evaluate_parts

    def refuse(parts: Sequence[Part]) -> None:
        if len(parts) > 1:
            raise ModelError("llama.cpp cannot")
        evaluate(parts)

    one.main.evaluate_parts = refuse  # type: ignore[method-assign]
    finish(one)
    assert all(isinstance(each.results[0], ModelError) for each in asked)
    one.main.evaluate_parts = evaluate  # type: ignore[method-assign]
    again = Asked(one, calls, 10)
    finish(one)
    assert again.right
