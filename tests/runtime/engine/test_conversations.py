"""Several conversations by turns: each is continued where it was left, and says what a fresh engine says.

On the mock model of test_with_mock_model.py, which fails where llama.cpp would silently compute something else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inputs.one_request import OneRequest
from oracles import mock_llama
from oracles.mock_llama import MockModel
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.forest.reuse import WORTH_KEEPING, worth_keeping
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
from qwen35_gguf.runtime.engine.media_chunk import MediaChunk
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling

pytestmark = pytest.mark.unit

START = 2  # begins a message
GREEDY = Sampling(temperature=0.0)
PLENTY = 1 << 24


@pytest.fixture(autouse=True)
def _mock(monkeypatch: pytest.MonkeyPatch) -> None:
    mock_llama.use_mock(monkeypatch)


def engine(model: MockModel | None = None, **options: Any) -> OneRequest:
    options = {"cache_bytes": PLENTY, **options}
    spec = ContextSpec(n_ctx=8192, n_batch=16)
    return OneRequest(model or MockModel(), spec, message_start=START, **options)  # type: ignore[arg-type]


def message(length: int, seed: int) -> list[int]:
    return [START, *(3 + (seed * 7 + i * (1 + seed % 5)) % 40 for i in range(length - 1))]


def image(key: str, n_cells: int = 20, n_pos: int = 5) -> MediaChunk:
    def evaluate(context: Any, place: Any) -> None:
        context.evaluate_image(key, place, n_pos)

    return MediaChunk(key, n_cells, n_pos, evaluate)


HEADER = [START, 3]  # begins the answer


def say(on: OneRequest, conversation: list[Any], count: int = 9) -> tuple[int, list[int]]:
    """Answer a conversation; return the items that were reused, and the answer."""
    on.prefill([*conversation, *HEADER])
    last = on.info().last
    assert last is not None
    with Sampler(on.model, GREEDY, 0) as sampler:
        found = list(on.generate(sampler, limit=count))
    tokens = [mock_llama.media_item(item.key) if isinstance(item, MediaChunk) else item for item in conversation]
    assert found == MockModel().greedy([*tokens, *HEADER], count)
    return last.reused, found


@pytest.mark.parametrize("draft", [0, 2])
@pytest.mark.parametrize("system", [20, 600])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_conversations_by_turns_are_each_continued(count: int, system: int, draft: int) -> None:
    with engine(draft=draft) as made:
        chats = [[*message(system, i), *message(12, 10 + i)] for i in range(count)]
        known = [0] * count
        for turn in range(3):
            for i, chat in enumerate(chats):
                reused, answer = say(made, chat)
                assert reused == known[i]
                known[i] = len(chat)
                chats[i] = [*chat, START, 4, *answer, *message(12, 20 + turn)]  # the header in history is another


def test_a_shared_system_prompt_is_evaluated_once() -> None:
    with engine() as made:
        system = message(300, 1)
        say(made, [*system, *message(20, 2)])
        for seed in range(3, 9):
            assert say(made, [*system, *message(20, seed)])[0] == 300
        assert say(made, [*system, *message(20, 2)])[0] == 320  # and each of these chats is still there


def test_another_answer_an_edited_question_and_an_edited_turn_reuse_what_is_before() -> None:
    with engine() as made:
        parts = [message(100, 1), message(30, 2), message(40, 3), message(30, 4)]
        chat = [item for part in parts for item in part]
        say(made, chat)
        assert say(made, chat)[0] == 200  # another answer to the same
        assert say(made, [*chat[:170], *message(25, 9)])[0] == 170  # the last question, edited
        assert say(made, [*chat[:130], *message(25, 8)])[0] == 130  # an earlier one
        assert say(made, chat)[0] == 200  # and back


def test_a_document_that_several_prompts_share_is_reused_from_the_second_on() -> None:
    document = message(2000, 5)
    with engine() as made:
        found = [say(made, [*document, *range(10, 30), 7 + i])[0] for i in range(4)]
    assert found[0] == 0
    assert min(found[1:]) >= 1500


def test_a_raw_text_with_other_endings_is_reused() -> None:
    text = [3 + i % 40 for i in range(1500)]
    with engine() as made:
        reused = []
        for i in range(4):
            made.prefill([*text, *range(5 + i, 15 + i)])
            reused.append(made.info().last.reused)  # type: ignore[union-attr]
    assert reused == [0, 1024, 1024, 1024]


def test_images_are_part_of_a_conversation() -> None:
    with engine(draft=1) as made:
        chats = [[*message(30, i), image(f"image {i}"), *message(20, 5)] for i in range(3)]
        for chat in chats * 2:
            say(made, chat)
        assert say(made, chats[0])[0] == 51
        assert say(made, [*message(30, 0), image("another"), *message(20, 5)])[0] <= 30


def test_the_least_recently_used_conversation_goes_first_and_the_middle_of_others_before() -> None:
    with engine(cache_bytes=40_000) as made:
        chats = [[*message(200, i), *message(100, 10 + i), *message(100, 20 + i)] for i in range(5)]
        for chat in chats:
            say(made, chat)
            assert made.cache.n_bytes <= 40_000
        info = made.info()
        assert [held.place for held in info.sequences[:2]] == ["context", "memory"]
        assert say(made, chats[3])[0] >= 200
        assert say(made, chats[0])[0] == 0
        reason = made.info().last.reason  # type: ignore[union-attr]
        assert reason == "a sequence that shares 402 tokens was dropped to stay within cache_bytes (40,000)"


def test_a_miss_has_a_reason() -> None:
    with engine() as made:
        assert made.info().last is None
        chat = [*message(40, 1), *message(40, 2)]
        reasons = []
        for prompt in (chat, chat, message(50, 3), [*chat[:60], 9, 9]):
            say(made, prompt)
            reasons.append(made.info().last.reason)  # type: ignore[union-attr]
        assert reasons[0] == "it is the first prompt"
        assert "share 82 tokens with it; the last kept state before that is at 80" in reasons[1]
        assert "share 1 tokens" in reasons[2] or reasons[2] == "no known sequence begins as it does"
        assert "share 60 tokens with it; the last kept state before that is at 40" in reasons[3]
    with engine(cache_bytes=0) as made:
        say(made, chat)
        say(made, message(50, 3))
        say(made, chat)
        assert made.info().last.reason == "cache_bytes is 0: no states are kept"  # type: ignore[union-attr]


def test_what_is_held_is_told(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "m")
    with engine(store=store) as made:
        say(made, message(1100, 1))
        say(made, message(60, 2))
        store.flush()
        context, memory, disk = made.info().sequences
        assert (context.place, memory.place, disk.place) == ("context", "memory", "disk")
        assert context.tokens == 60 + 2 + 8
        assert memory.states[-1] == disk.tokens == 1100
        assert made.info().n_bytes == made.cache.n_bytes > memory.n_bytes > 0


def test_a_sequence_that_is_continued_is_not_kept_and_another_one_is() -> None:
    live = [*message(100, 1), *HEADER, *range(10, 40)]
    assert not worth_keeping(live, 100, [*live[:100], *message(5, 2)])
    assert worth_keeping(live, 100, message(50, 2))
    assert worth_keeping(live, 100, [*live[:50], 9])
    assert not worth_keeping(live[:WORTH_KEEPING], WORTH_KEEPING, [START, 9])
    assert not worth_keeping([], 0, [1])


@st.composite
def histories(draw: st.DrawFn) -> list[list[Any]]:
    """Prompts that share beginnings: each continues, shortens or changes an earlier one."""
    prompts: list[list[Any]] = [message(draw(st.integers(1, 60)), draw(st.integers(0, 3)))]
    for _ in range(draw(st.integers(1, 9))):
        base = draw(st.sampled_from(prompts))
        cut = draw(st.integers(0, len(base)))
        more: list[Any] = message(draw(st.integers(1, 60)), draw(st.integers(0, 3)))
        if draw(st.booleans()):
            more = [*more, image(draw(st.sampled_from("ab"))), 5]
        prompts.append([*base[:cut], *more])
    return prompts


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories(), st.integers(0, 3), st.sampled_from([0, 3000, 9000, PLENTY]))
def test_any_history_gives_what_a_fresh_engine_gives(prompts: list[list[Any]], draft: int, cache_bytes: int) -> None:
    with engine(draft=draft, cache_bytes=cache_bytes) as made:
        for prompt in prompts:
            say(made, prompt)
            assert made.cache.n_bytes <= cache_bytes
