"""Thinking that goes round in circles is ended, and so is an answer; by default nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.chat import loop_detector
from qwen35_gguf.runtime.chat.loop_detector import LoopRule

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def model(files: list[Path]) -> Iterator[Qwen35]:
    with Qwen35(files[0], n_ctx=4096, n_threads=1) as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def _short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_detector, "THINKING", LoopRule(32))
    monkeypatch.setattr(loop_detector, "ANSWER", LoopRule(48))


def bias(model: Qwen35) -> dict[int, float]:
    """A token is written again and again."""
    with model.texts() as texts:
        return {texts.tokenize("a")[0]: 100.0}


def test_by_default_nothing_is_ended(model: Qwen35) -> None:
    answer = model.chat(HELLO, thinking=True, logit_bias=bias(model), max_tokens=150, temperature=0)
    assert answer.choices[0].finish_reason == "length"
    assert answer.timings.loop == ""


def test_thinking_is_ended_by_the_sentence_of_the_family(model: Qwen35) -> None:
    answer = model.chat(HELLO, thinking=True, logit_bias=bias(model), max_tokens=60, temperature=0, stop_loops=True)
    reasoning = answer.choices[0].message.reasoning_content or ""
    assert reasoning.startswith("a" * 30)
    assert "Considering the limited time by the user" in reasoning
    assert answer.timings.loop == "thinking"
    assert "ended: a loop in the thinking" in str(answer.timings)
    assert answer.choices[0].finish_reason == "length"


def test_an_answer_is_stopped(model: Qwen35) -> None:
    options = {"thinking": False, "logit_bias": bias(model), "max_tokens": 500, "temperature": 0, "stop_loops": True}
    answer = model.chat(HELLO, **options)
    assert answer.choices[0].finish_reason == "loop"
    assert answer.timings.loop == "answer"
    assert answer.usage.completion_tokens < 80
    chunks = list(model.chat(HELLO, stream=True, **options))
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "loop"
    assert model.generate("a", logit_bias=bias(model), max_tokens=500, stop_loops=True).finish_reason == "loop"


def test_a_model_may_do_it_for_all_requests(files: list[Path]) -> None:
    with Qwen35(files[0], n_ctx=1024, n_threads=1, stop_loops=True) as model:
        wanted = {"thinking": False, "logit_bias": bias(model), "max_tokens": 200, "temperature": 0}
        assert model.chat(HELLO, **wanted).choices[0].finish_reason == "loop"
        assert model.chat(HELLO, **wanted, stop_loops=False).choices[0].finish_reason == "length"
