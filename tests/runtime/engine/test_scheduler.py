"""Many requests in one context, on the mock model: each says what it says alone, whatever runs beside it.

The mock is strict where llama.cpp is silent: see oracles/mock_llama.py. test_side_by_side.py has a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inputs.scheduling import asked as scheduled
from inputs.scheduling.asked import GREEDY, finish
from oracles import mock_llama
from oracles.mock_llama import MockModel
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.job import Job, Outcome
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling
from qwen35_gguf.runtime.engine.scheduler import Scheduler

pytestmark = pytest.mark.unit

START = 2  # begins a message
RANDOM = Sampling(temperature=1.0)


@pytest.fixture(autouse=True)
def _mock(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_llama.use_mock(monkeypatch)


def scheduler(model: MockModel | None = None, *, n_ctx: int = 2048, n_batch: int = 32, **options: Any) -> Scheduler:
    spec = ContextSpec(n_ctx=n_ctx, n_batch=n_batch)
    options = {"parallel": 4, "cache_bytes": 1 << 24, **options}
    return Scheduler(model or MockModel(), spec, message_start=START, **options)  # type: ignore[arg-type]


def message(length: int, seed: int = 0) -> list[int]:
    return [START, *(3 + (seed * 7 + i * (1 + seed % 5)) % 40 for i in range(length - 1))]


class Asked(scheduled.Asked):
    """A request that ends with the model's ending."""

    def take(self, token: int) -> Sequence[int] | None:
        self.tokens.append(token)
        return None if token == mock_llama.ENDING else ()

    def expected(self, model: MockModel) -> list[int]:
        items: list[int] = []
        for item in self.prompt:
            items += [mock_llama.media_item(item.key)] * item.n_cells if isinstance(item, MediaChunk) else [item]
        found = model.greedy(items, self.limit)
        return found[: found.index(mock_llama.ENDING) + 1] if mock_llama.ENDING in found else found


@pytest.mark.parametrize("draft", [0, 2])
@pytest.mark.parametrize("parallel", [1, 2, 3, 7, 20])
def test_requests_side_by_side_say_what_each_says_alone(parallel: int, draft: int) -> None:
    model = MockModel(ending=True)
    with scheduler(model, parallel=parallel, draft=draft) as one:
        asked = [Asked(message(5 + 7 * i, i), 4 + 9 * i % 30) for i in range(9)]
        for each in asked:
            each.add(one)
        finish(one)
        for each in asked:
            assert each.tokens == each.expected(model)
            ended = each.tokens[-1] == mock_llama.ENDING
            assert each.outcome.end == ("stopped" if ended else "limit")


def test_the_seed_decides_whatever_runs_beside() -> None:
    found = []
    for together in (False, True):
        with scheduler() as one:
            asked = [Asked(message(20), 15, RANDOM, seed) for seed in (1, 2, 1)]
            for each in asked:
                each.add(one)
                if not together:
                    finish(one)
            finish(one)
            found.append([each.tokens for each in asked])
    assert found[0] == found[1]
    assert found[0][0] == found[0][2] != found[0][1]


def test_a_step_reads_the_weights_once_for_all_answers() -> None:
    with scheduler() as one:
        asked = [Asked(message(8, i), 30) for i in range(4)]
        for each in asked:
            each.add(one)
        for _ in range(6):
            one.step()
        calls: list[int] = []
        evaluate = one.main.evaluate_parts
        one.main.evaluate_parts = lambda parts: (calls.append(len(parts)), evaluate(parts))  # type: ignore
        for _ in range(5):
            one.step()
        assert calls == [4] * 5


def test_a_running_answer_gets_its_token_between_the_chunks_of_a_prompt() -> None:
    with scheduler(n_batch=16) as one:
        first = Asked(message(10), 200)
        first.add(one)
        one.step()
        second = Asked(message(500, 3), 5)
        second.add(one)
        while not second.tokens:
            before = len(first.tokens)
            one.step()
            assert len(first.tokens) == before + 1
        assert len(first.tokens) >= 500 // 32
        assert second.tokens[0] == MockModel().greedy(second.prompt, 1)[0]


def test_a_system_prompt_is_evaluated_once_for_requests_that_come_at_once() -> None:
    system = message(300, 1)
    with scheduler() as one:
        asked = [Asked([*system, *message(20, seed)], 40) for seed in range(2, 6)]
        for each in asked:
            each.add(one)
        finish(one)
        assert [each.outcome.reused_cells for each in asked] == [0, 300, 300, 300]
        for each in asked:
            assert each.tokens == each.expected(MockModel())


def test_chats_by_turns_are_each_continued_in_place() -> None:
    with scheduler() as one:
        chats = [[*message(200, i), *message(12, 10 + i)] for i in range(4)]
        for turn in range(4):
            asked = [Asked([*chat, START, 3]) for chat in chats]
            for each in asked:
                each.add(one)
            finish(one)
            for each, chat in zip(asked, chats, strict=True):
                assert each.tokens == each.expected(MockModel())
                assert each.outcome.reused_cells == (0 if not turn else len(chat) - 12 - 12)
                chat += [START, 4, *each.tokens, *message(12, 20 + turn)]


def test_an_answer_that_is_not_read_pauses_and_gives_way() -> None:
    model = MockModel()
    with scheduler(model, parallel=1) as one:
        first, second = Asked(message(30), 40), Asked(message(25, 4), 10)
        first.add(one)
        for _ in range(5):
            one.step()
        first.wanted = False
        taken = len(first.tokens)
        assert not one.step()
        second.add(one)
        finish_until(one, second)
        assert len(first.tokens) == taken
        first.wanted = True
        finish(one)
        assert first.tokens == first.expected(model)
        assert second.tokens == second.expected(model)


def finish_until(one: Scheduler, asked: Asked) -> None:
    while not asked.results:
        one.step()


@pytest.mark.parametrize("phase", ["waiting", "prompt", "answer"])
def test_a_request_that_is_ended_frees_its_sequence_at_once(phase: str) -> None:
    with scheduler(parallel=1, n_batch=16) as one:
        other = Asked(message(40, 3), 12)
        if phase == "waiting":
            other.add(one)
            one.step()
        asked = Asked(message(100), 12)
        run = asked.add(one)
        steps = {"waiting": 0, "prompt": 2, "answer": 9}[phase]
        for _ in range(steps):
            one.step()
        assert run.phase == phase
        one.end(run, TimeoutError("late"))
        assert isinstance(asked.results[0], TimeoutError)
        assert run.sequence is None
        again = Asked(message(100), 5)
        again.add(one)
        finish(one)
        assert again.tokens == again.expected(MockModel())
        if phase == "prompt":
            assert again.outcome.reused_cells >= 16  # what was evaluated is not lost


def test_an_error_of_one_ends_that_one_alone() -> None:
    with scheduler() as one:
        asked = [Asked(message(10, i), 20) for i in range(3)]

        def fails(token: int) -> Sequence[int]:
            raise ValueError(token)

        for each in asked:
            each.add(one)
        broken: list[Outcome | Exception] = []
        one.add(Job(message(9), Sampler(one.model, GREEDY, 0), 5, fails, broken.append))
        finish(one)
        assert isinstance(broken[0], ValueError)
        for each in asked:
            assert each.tokens == each.expected(MockModel())


def image(key: str, ready: list[bool], n_cells: int = 50, n_pos: int = 8) -> MediaChunk:
    def evaluate(context: Any, place: Any) -> None:
        context.evaluate_image(key, place, n_pos)

    return MediaChunk(key, n_cells, n_pos, evaluate, lambda: ready.append(True), lambda: bool(ready))


def test_an_image_is_encoded_and_evaluated_beside_answers() -> None:
    with scheduler(n_batch=16) as one:
        text, ready = Asked(message(10), 200), list[bool]()
        text.add(one)
        one.step()
        visual = Asked([*message(20, 2), image("a", ready), *message(10, 3)], 8)
        visual.add(one)
        while not visual.tokens:
            before = len(text.tokens)
            one.step()
            assert len(text.tokens) == before + 1
        finish(one)
        assert ready == [True]
        assert visual.tokens == visual.expected(MockModel())
        again = Asked([*message(20, 2), image("a", ready), *message(12, 5)], 8)
        again.add(one)
        finish(one)
        assert again.outcome.reused_cells == 70
        assert again.tokens == again.expected(MockModel())


@st.composite
def histories(draw: st.DrawFn) -> list[list[Any]]:
    """Prompts that share beginnings: each continues, shortens or changes an earlier one."""
    prompts: list[list[Any]] = [message(draw(st.integers(1, 60)), draw(st.integers(0, 3)))]
    for _ in range(draw(st.integers(1, 9))):
        base = draw(st.sampled_from(prompts))
        cut = draw(st.integers(0, len(base)))
        more: list[Any] = message(draw(st.integers(1, 60)), draw(st.integers(0, 3)))
        if draw(st.booleans()):
            more = [*more, image(draw(st.sampled_from("ab")), [True], 20, 5), 5]
        prompts.append([*base[:cut], *more])
    return prompts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    histories(),
    st.integers(0, 3),
    st.sampled_from([0, 3000, 1 << 24]),
    st.booleans(),
    st.lists(st.integers(0, 12), min_size=1, max_size=10),
)
def test_any_requests_at_any_time_say_what_each_says_alone(
    prompts: list[list[Any]], draft: int, cache_bytes: int, deterministic: bool, steps: list[int]
) -> None:
    model = MockModel(accuracy=0.6)
    options: dict[str, Any] = {"parallel": 3, "draft": draft, "cache_bytes": cache_bytes}
    with scheduler(model, n_batch=16, deterministic=deterministic, **options) as one:
        asked = [Asked(prompt, 6) for prompt in prompts]
        ended = []
        for number, each in enumerate(asked):
            run = each.add(one)
            for _ in range(steps[number % len(steps)]):
                one.step()
            if steps[number % len(steps)] == 7:
                one.end(run, TimeoutError())
                ended.append(each)
        finish(one)
        for each in asked:
            if each not in ended:
                assert each.tokens == each.expected(model)
