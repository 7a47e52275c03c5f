"""A prompt that is evaluated again says which words changed; with `ignore` it is not evaluated again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwen35_gguf import errors
from qwen35_gguf.runtime import Qwen35

OPTIONS: dict[str, Any] = {"thinking": False, "max_tokens": 2, "temperature": 0}
LONG = "The rules are these. " * 30


def chat(mark: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": f"{LONG}cch={mark} {LONG}"}, {"role": "user", "content": "Hello"}]


def test_the_words_that_changed_are_named(files: list[Path]) -> None:
    with Qwen35(files[0], n_ctx=2048, n_threads=1, draft=0) as model:
        first = model.chat(chat("ab12"), **OPTIONS).timings
        again = model.chat(chat("ab12"), **OPTIONS).timings
        changed = model.chat(chat("77f0"), **OPTIONS).timings
        other = model.chat([{"role": "user", "content": "Something else, not known before."}], **OPTIONS).timings
    assert first.miss == again.miss == other.miss == ""
    place = f"message 1, character {len(LONG)}"
    assert changed.miss == f"{place}: 'cch=ab12' became 'cch=77f0': {changed.prompt_tokens:,} tokens evaluated again"


def test_what_is_ignored_costs_nothing(files: list[Path]) -> None:
    with Qwen35(files[0], n_ctx=2048, n_threads=1, draft=0, ignore=r"cch=\w+") as model:
        model.chat(chat("ab12"), **OPTIONS)
        timings = model.chat(chat("77f0"), **OPTIONS).timings
    assert timings.miss == ""
    assert timings.reused_tokens > timings.prompt_tokens / 2


@pytest.mark.parametrize("pattern", ["(", "", 5, ["a", "("]])
def test_a_pattern_that_cannot_be_used_is_refused(files: list[Path], pattern: Any) -> None:
    with pytest.raises(errors.MessageError, match="ignore: .* regular expression"):
        Qwen35(files[0], ignore=pattern)


def test_a_queue_has_a_limit(files: list[Path]) -> None:
    with Qwen35(files[0], n_ctx=2048, n_threads=1, draft=0, queue_limit=1) as model:
        model.chat(chat("a"), **OPTIONS)
        streams = [model.chat(chat("a"), stream=True, **{**OPTIONS, "max_tokens": 1000}) for _ in range(2)]
        with pytest.raises(errors.QueueFullError, match="try again in") as error:
            model.chat(chat("a"), **OPTIONS)
        assert error.value.seconds >= 1
        seen = model.snapshot()
        assert len(seen.slots) == 1
        assert seen.queue_limit == 1
        assert seen.counters.requests == 1
        assert seen.counters.tokens == 2
        for stream in streams:
            stream.close()
        assert model.chat(chat("a"), **OPTIONS).timings.tokens == 2


def test_a_restart_continues_short_chats(files: list[Path], tmp_path: Path) -> None:
    messages = [*chat("a"), {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "And now?"}]
    options: dict[str, Any] = {"n_ctx": 2048, "n_threads": 1, "draft": 0, "parallel": 2, "state_dir": tmp_path}
    with Qwen35(files[0], **options) as model:
        before = model.chat(messages, **OPTIONS)
        warm = model.chat(messages, **OPTIONS)
    with Qwen35(files[0], **options) as model:
        after = model.chat(messages, **OPTIONS)
    assert before.text == warm.text == after.text
    assert after.timings.reused_tokens == warm.timings.reused_tokens > 0


def test_after_a_restart_the_newest_states_are_in_the_context(files: list[Path], tmp_path: Path) -> None:
    messages = [*chat("a" * 600), {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "And now?"}]
    options: dict[str, Any] = {"n_ctx": 2048, "n_threads": 1, "draft": "auto", "parallel": 2, "state_dir": tmp_path}
    with Qwen35(files[0], **options) as model:
        before = model.chat(messages, **OPTIONS)
    with Qwen35(files[0], **options) as model:
        model.warm_up()
        assert any(slot.held for slot in model.snapshot().slots)
        after = model.chat(messages, **OPTIONS)
        last = model.cache_info().last
        model.warm_up()  # of no use any more
    assert last is not None
    assert last.place == "context"
    assert last.reused > 100
    assert after.text == before.text
