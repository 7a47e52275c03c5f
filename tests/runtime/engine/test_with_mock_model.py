"""The engine's own logic on a mock model: what is evaluated again, which drafts are kept, who runs beside whom.

The mock is strict where llama.cpp is silent: see oracles/mock_llama.py. test_sequence.py does the same with a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inputs.one_request import OneRequest
from oracles import mock_llama
from oracles.mock_llama import MockModel
from qwen35_gguf.errors import ContextError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling

pytestmark = pytest.mark.unit

BOUNDARY = 2  # the token that begins a message
GREEDY = Sampling(temperature=0.0)
RANDOM = Sampling(temperature=1.0)


@pytest.fixture(autouse=True)
def _mock(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_llama.use_mock(monkeypatch)


def engine(model: MockModel | None = None, *, n_ctx: int = 4096, n_batch: int = 16, **options: Any) -> OneRequest:
    spec = ContextSpec(n_ctx=n_ctx, n_batch=n_batch)
    return OneRequest(model or MockModel(), spec, message_start=BOUNDARY, **options)  # type: ignore[arg-type]


def answer(engine: OneRequest, count: int, sampling: Sampling = GREEDY, seed: int = 0, **options: Any) -> list[int]:
    with Sampler(engine.model, sampling, seed) as sampler:
        return engine.generate(sampler, limit=count, **options)


def message(length: int, start: int = 10) -> list[int]:
    return [BOUNDARY, *(3 + (start + i) % 40 for i in range(length - 1))]


def image(key: str, n_cells: int = 20, n_pos: int = 5) -> MediaChunk:
    def evaluate(context: Any, place: Any) -> None:
        context.evaluate_image(key, place, n_pos)

    return MediaChunk(key, n_cells, n_pos, evaluate)


def evaluated(engine: OneRequest) -> int:
    """Tokens of the main model's calls so far."""
    return sum(len(tokens) for _, tokens in _context(engine).calls)


def _context(engine: OneRequest) -> Any:
    found = [value for value in vars(engine).values() if isinstance(value, mock_llama.MockContext)]
    return found[0]


# ---- generation and drafts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("draft", [0, 1, 2, 4])
def test_drafts_change_no_token(draft: int, accuracy: float) -> None:
    model = MockModel(accuracy=accuracy)
    prompt = message(30)
    with engine(model, draft=draft) as made:
        made.prefill(prompt)
        assert answer(made, 60) == model.greedy(prompt, 60)
        drafts = made.drafts
    if not draft:
        assert drafts.drafted == 0
    elif accuracy in (0.0, 1.0):
        assert drafts.accepted == drafts.drafted * accuracy
        assert drafts.drafted >= 29
    else:
        assert 0 < drafts.accepted < drafts.drafted


@pytest.mark.parametrize("draft", [1, 3])
def test_drafts_change_no_random_choice(draft: int) -> None:
    model = MockModel(accuracy=0.5)
    results = []
    for depth in (0, draft):
        with engine(model, draft=depth) as made:
            made.prefill(message(25))
            results.append([answer(made, 40, RANDOM, seed) for seed in (1, 1, 2)])
    assert results[0] == results[1]


def test_accepted_drafts_save_calls() -> None:
    model = MockModel(accuracy=1.0)
    calls = []
    for draft in (0, 3):
        with engine(model, draft=draft) as made:
            made.prefill(message(20))
            before = len(_context(made).calls)
            answer(made, 40)
            calls.append(len(_context(made).calls) - before)
    assert calls == [2 + 39, 2 + 10]  # the prompt again, which is the last message


def test_auto_measures_once_and_changes_no_token() -> None:
    model = MockModel(accuracy=0.8)
    prompt = message(40)
    with engine(model, draft="auto") as made:
        made.prefill(prompt)
        first = answer(made, 30)
        assert made.scheduler._decoder.measured
        assert first == model.greedy(prompt, 30)


def test_forced_tokens_follow_and_are_counted() -> None:
    model = MockModel()
    with engine(model, draft=2) as made, Sampler(model, GREEDY, 0) as sampler:  # type: ignore[arg-type]
        prompt = message(20)
        made.prefill(prompt)
        given_out = made.generate(sampler, limit=6, force=lambda n: [7, 8, 9] if n == 2 else ())
        assert given_out[:2] == model.greedy(prompt, 2)
        assert given_out[2:] == [7, 8, 9, *model.greedy([*prompt, *given_out[:2], 7, 8, 9], 4)]
        chain: Any = sampler._chain
        assert [token for token in chain.accepted if token in (7, 8, 9)][:3] == [7, 8, 9]


@pytest.mark.parametrize("draft", [0, 3])
def test_a_full_context_ends_the_answer(draft: int) -> None:
    model = MockModel()
    with engine(model, n_ctx=40, draft=draft) as made:
        prompt = message(30)
        made.prefill(prompt)
        tokens = answer(made, 100)
    assert tokens == model.greedy(prompt, len(tokens))
    assert 10 <= len(tokens) <= 11


@pytest.mark.parametrize("stop", [1, 2, 5, 9])
def test_a_caller_may_stop_in_the_middle_of_a_step(stop: int) -> None:
    model = MockModel(accuracy=0.9)
    prompt = message(20)
    with engine(model, draft=4) as made, Sampler(model, GREEDY, 0) as sampler:  # type: ignore[arg-type]
        made.prefill(prompt)
        taken = made.generate(sampler, limit=50, stop=stop)
        following = [*prompt, *taken, *message(10, start=3)]
        made.prefill(following)
        assert answer(made, 20) == model.greedy(following, 20)


# ---- what is used again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft", [0, 2])
def test_a_growing_conversation_is_evaluated_once(draft: int) -> None:
    model = MockModel()
    with engine(model, draft=draft) as made:
        conversation = message(50)
        for turn in range(5):
            reused = made.prefill(conversation)
            assert reused >= len(conversation) - 40 or turn == 0
            reply = answer(made, 20)
            assert reply == model.greedy(conversation, 20)
            conversation = [*conversation, *reply, *message(15, start=turn)]


def test_the_same_prompt_again_needs_a_recurrent_state_only() -> None:
    with engine() as made:
        prompt = [*message(100), *message(30, start=5), *message(20, start=9)]
        assert made.prefill(prompt) == 0
        before = evaluated(made)
        assert made.prefill(prompt) == 130
        assert evaluated(made) - before == 20


def test_another_ending_is_continued_from_the_boundary_before_it() -> None:
    model = MockModel()
    with engine(model) as made:
        start = [*message(60), *message(30, start=5)]
        made.prefill([*start, *message(10, start=1)])
        other = [*start, *message(10, start=2)]
        assert made.prefill(other) == 90
        assert answer(made, 10) == model.greedy(other, 10)


def test_without_a_cache_everything_is_evaluated_again() -> None:
    with engine(cache_bytes=0) as made:
        prompt = [*message(60), *message(30, start=5)]
        made.prefill([*prompt, *message(9, start=1)])
        assert made.prefill([*prompt, *message(9, start=2)]) == 0


def test_two_conversations_take_turns() -> None:
    model = MockModel()
    with engine(model, n_ctx=8192, cache_bytes=1 << 22) as made:
        first, second = message(1500, start=1), message(1500, start=20)
        made.prefill(first)
        made.prefill(second)
        again = [*first, *message(10, start=4)]
        assert made.prefill(again) >= 1500
        assert answer(made, 10) == model.greedy(again, 10)


def test_an_image_is_one_item_with_its_own_cells_and_positions() -> None:
    with engine(draft=2) as made:
        prompt = [*message(20), image("a"), *message(10, start=4)]
        assert made.prefill([*prompt, *message(8, start=1)]) == 0
        assert made.prefill([*prompt, *message(8, start=2)]) == 20 + 20 + 10
        assert made.prefill([*message(20), image("b"), *message(10, start=4)]) <= 20


def test_states_on_disk_serve_another_run(tmp_path: Path) -> None:
    model = MockModel()
    prompt = [*message(1200), *message(40, start=7)]
    with engine(model, store=StateStore(tmp_path, "mock")) as made:
        assert made.prefill(prompt) == 0
    with engine(model, store=StateStore(tmp_path, "mock")) as made:
        assert made.prefill(prompt) == 1200
        assert answer(made, 10) == model.greedy(prompt, 10)
    with engine(model, store=StateStore(tmp_path, "another")) as made:
        assert made.prefill(prompt) == 0


@pytest.mark.parametrize(("prompt", "reason"), [
    ([], "is empty"),
    ([*message(5), image("a")], "does not end with text"),
    (message(5000), "do not fit into a context of 4,096"),
])  # fmt: skip
def test_prompts_that_cannot_be_evaluated_are_refused(prompt: list[Any], reason: str) -> None:
    with engine() as made, pytest.raises(ContextError, match=reason):
        made.prefill(prompt)


@st.composite
def conversations(draw: st.DrawFn) -> Iterator[list[int]]:
    parts = [message(draw(st.integers(1, 40)), start=draw(st.integers(0, 5))) for _ in range(draw(st.integers(1, 5)))]
    return [token for part in parts for token in part]  # type: ignore[return-value]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(conversations(), min_size=1, max_size=6), st.integers(0, 4), st.integers(0, 3000))
def test_any_prompts_in_any_order_give_what_a_fresh_engine_gives(
    prompts: list[list[int]], draft: int, cache_bytes: int
) -> None:
    model = MockModel(accuracy=0.6)
    with engine(model, draft=draft, cache_bytes=cache_bytes) as made:
        for prompt in prompts:
            made.prefill(prompt)
            assert answer(made, 7) == model.greedy(prompt, 7)


def test_closing_closes_every_context() -> None:
    made = engine(draft=2)
    contexts = [_context(made)]
    made.close()
    assert [context.closed for context in contexts] == [True]
