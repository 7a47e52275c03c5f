"""The next turn of a conversation, of which all but the question is evaluated before it is asked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.chat.openai_types import Message
from qwen35_gguf.runtime.chat.prompt import Prompt, chat_prompt
from qwen35_gguf.runtime.chat.template import ChatTemplate
from qwen35_gguf.runtime.llama.model import Model

TEMPLATES = sorted((Path(__file__).parents[2] / "inputs" / "chat_templates").glob("*.jinja"))
PIECES = ["Hello", " ", "\n", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "a <", "|>", "é", "<tool_call>"]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=6).map("".join)


def prompt_of(model: Model, source: str, messages: list[dict[str, Any]], thinking: bool) -> Prompt:
    template = ChatTemplate(source, eos_token=model.vocabulary.eos_token)
    return chat_prompt(model, template, messages, enable_thinking=thinking, vision=lambda: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
@settings(deadline=None, max_examples=10)
@given(texts=st.lists(TEXTS, min_size=4, max_size=4), thinking=st.booleans())
def test_what_follows_is_the_beginning_of_the_next_prompt(
    model: Model, template: Path, texts: list[str], thinking: bool
) -> None:
    source = template.read_text(encoding="utf-8")
    start = model.tokenize("<|im_start|>")[0]
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": f"Q{texts[0]}"}]
    for number, content in enumerate(texts[1:3]):
        prompt = prompt_of(model, source, messages, thinking)
        answer = {"role": "assistant", "content": content}
        messages = [*messages, answer, {"role": "user", "content": f"{number}{texts[3]}"}]
        later = prompt_of(model, source, messages, thinking).items
        assert prompt.follow is not None
        found = prompt.follow(Message(content, "Let me see."))
        assert found is not None
        assert later[: len(found)] == found
        assert later[len(found)] == start
        assert later[len(found) :].count(start) == 2  # the question, and what begins the answer


@pytest.mark.parametrize("thinking", [False, True])
def test_a_later_turn_waits_for_its_question_alone(files: list[Path], thinking: bool) -> None:
    options: dict[str, Any] = {"thinking": thinking, "max_tokens": 40, "thinking_budget": 10, "temperature": 0}
    answers, evaluated = [], []
    for ahead in (False, True):
        with Qwen35(files[0], n_ctx=2048, n_threads=1, draft=2, parallel=2, ahead=ahead) as model:
            messages: list[Any] = [{"role": "system", "content": "You are terse. " * 20}]
            for turn in range(3):
                messages.append({"role": "user", "content": f"Question {turn}?"})
                done = model.chat(messages, **options)
                messages.append({"role": "assistant", "content": done.text})
                answers.append(done.text)
                evaluated.append(done.timings.prompt_tokens - done.timings.reused_tokens)
                limit = time.monotonic() + 30
                while model._loaded.engine.waits:
                    assert time.monotonic() < limit
                    time.sleep(0.01)
            with model.texts() as texts:
                question = len(
                    texts.tokenize("<|im_start|>user\nQuestion 0?<|im_end|>\n<|im_start|>assistant\n<think>\n")
                )
    assert answers[:3] == answers[3:]
    assert evaluated[0] == evaluated[3]
    assert all(count <= question + 4 for count in evaluated[4:])
    assert all(count > question + 4 for count in evaluated[1:3])


def test_answers_to_choose_from_and_texts_are_not_evaluated_ahead(files: list[Path]) -> None:
    with Qwen35(files[0], n_ctx=1024, n_threads=1, draft=0, parallel=2, ahead=True) as model:
        model.chat([{"role": "user", "content": "Hello"}], n=2, max_tokens=4)
        assert not model._loaded.engine.waits
        model.generate("Hello", max_tokens=4)
        assert not model._loaded.engine.waits
