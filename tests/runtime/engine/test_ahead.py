"""What the next turn begins with is evaluated while nothing is asked; no answer and no request suffers from it.

On the mock model of test_scheduler.py, which fails where llama.cpp would silently compute something else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oracles import mock_llama
from oracles.mock_llama import MockModel
from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine import ahead
from qwen35_gguf.runtime.engine.job import Job, Outcome
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling
from qwen35_gguf.runtime.engine.scheduler import Scheduler

pytestmark = pytest.mark.unit

START = 2  # begins a message
GREEDY = Sampling(temperature=0.0)
HEADER, IN_HISTORY = [START, 3, 9, 9], [START, 3]  # before an answer, and before the same one in history


@pytest.fixture(autouse=True)
def _mock(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_llama.use_mock(monkeypatch)
    monkeypatch.setattr(ahead, "AFTER", 0.0)


def scheduler(**options: Any) -> Scheduler:
    options = {"parallel": 2, "cache_bytes": 1 << 24, **options}
    return Scheduler(MockModel(), ContextSpec(n_ctx=2048, n_batch=32), message_start=START, **options)  # type: ignore[arg-type]


def message(length: int, seed: int = 0) -> list[int]:
    return [START, *(3 + (seed * 7 + i * (1 + seed % 5)) % 40 for i in range(length - 1))]


@dataclass
class Chat:
    """A conversation: each turn continues it with its answer, as it is in history."""

    items: list[int]
    outcomes: list[Outcome | Exception] = field(default_factory=list)

    def ask(self, on: Scheduler, question: list[int], count: int = 20, follow: Any = None) -> Outcome:
        """Ask, and check the answer against a model without memory."""
        asked, tokens = [*self.items, *question], list[int]()
        prompt = [*asked, *HEADER]

        def history() -> list[int]:
            return [*asked, *IN_HISTORY, *tokens]

        def take(token: int) -> tuple[()]:
            tokens.append(token)
            return ()

        sampler = Sampler(on.model, GREEDY, 0)
        job = Job(prompt, sampler, count, take, self.outcomes.append, follow=follow or history)
        on.run(job)
        assert tokens == MockModel().greedy(prompt, count)
        self.items = history()
        outcome = self.outcomes[-1]
        assert isinstance(outcome, Outcome)
        return outcome


def rest(on: Scheduler, most: int = 1000) -> None:
    """Let nothing be asked until there is nothing to do."""
    for _ in range(most):
        if not on.step():
            return
    raise AssertionError("it does not end")


@pytest.mark.parametrize("draft", [0, 2])
def test_a_later_turn_evaluates_its_question_alone(draft: int) -> None:
    with scheduler(draft=draft) as one:
        chat = Chat(message(100))
        for turn in range(4):
            before = len(chat.items)
            outcome = chat.ask(one, message(7, turn))
            assert outcome.reused_cells == (before if turn else 0)
            assert outcome.prompt_cells == before + 7 + len(HEADER)
            rest(one)
            assert not one.waits


def test_without_time_between_two_turns_the_answer_is_evaluated_then() -> None:
    with scheduler() as one:
        chat = Chat(message(100))
        chat.ask(one, message(7))
        known = 107
        assert one.waits
        assert chat.ask(one, message(7, 1)).reused_cells == known


def test_a_part_of_it_is_known_to_a_request_that_comes_meanwhile() -> None:
    with scheduler() as one:
        chat = Chat(message(100))
        chat.ask(one, message(7), count=90)
        one.step()
        assert one.waits
        found = chat.ask(one, message(7, 1)).reused_cells
        assert 107 < found < len(chat.items) - 20


def test_another_answer_and_another_conversation_find_what_they_found() -> None:
    with scheduler() as one:
        chat, again = Chat(message(100)), Chat(message(100))
        chat.ask(one, message(7))
        rest(one)
        assert again.ask(one, message(7)).reused_cells == 107
        other = Chat(message(100))
        assert other.ask(one, message(9, 5)).reused_cells == 100
        rest(one)
        assert chat.ask(one, message(7, 1)).reused_cells >= 107


def test_no_request_is_held_up_and_none_fails_with_it() -> None:
    def refuse() -> list[int]:
        raise MessageError("a template's")

    with scheduler() as one:
        for seed, follow in enumerate((refuse, lambda: None, list, lambda: [5] * 5000, lambda: message(30, 9)), 1):
            chat = Chat(message(100, seed))
            chat.ask(one, message(7), follow=follow)
            rest(one)
            assert not one.waits
            assert chat.ask(one, message(9, 3)).reused_cells == 107


def test_nothing_is_evaluated_ahead_where_calls_are_fixed_or_an_answer_failed() -> None:
    with scheduler(deterministic=True) as one:
        Chat(message(100)).ask(one, message(7))
        assert not one.waits
    with scheduler() as one:
        chat = Chat(message(100))
        chat.ask(one, message(7))
        one.end_all(MessageError("closed"))
        assert not one.waits


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(0, 6)), min_size=1, max_size=12),
    draft=st.integers(0, 2),
    cache_bytes=st.sampled_from([0, 6000, 1 << 24]),
)
def test_conversations_with_any_pauses_say_what_they_say_alone(
    turns: list[tuple[int, int, int]], draft: int, cache_bytes: int
) -> None:
    with scheduler(draft=draft, cache_bytes=cache_bytes) as one:
        chats = [Chat(message(40, seed)) for seed in (1, 1, 2, 3)]
        for number, length, pause in turns:
            chats[number].ask(one, message(length, length), count=1 + length)
            for _ in range(pause):
                one.step()
