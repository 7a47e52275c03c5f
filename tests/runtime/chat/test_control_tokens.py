"""Only the template writes control tokens: what messages and tools spell is text, as with transformers' sanitizing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.architecture.tags import TAGS
from qwen35_gguf.runtime.chat.control_tokens import BREAK, END, START, ControlTokens
from qwen35_gguf.runtime.chat.message_media import IMAGE_PLACE
from qwen35_gguf.runtime.chat.prompt import chat_prompt
from qwen35_gguf.runtime.chat.template import ChatTemplate
from qwen35_gguf.runtime.llama.model import Model

NAMES = [*TAGS, "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|endoftext|>", "<|vision_start|>", "<tts_pad>"]
PLAIN = ["Hello", " ", "\n", "\n\n", "<b>", "a <", "<|", "|>", "é", "\u0338", "e\u0301", "  x", "[1]", "```", "</"]
TEXTS = st.lists(st.one_of(st.sampled_from(PLAIN), st.text(max_size=4)), max_size=6).map("".join)
WITH_NAMES = st.lists(st.one_of(st.sampled_from([*NAMES, *PLAIN]), st.text(max_size=3)), max_size=8).map("".join)
# In an answer that is not parsed yet the family's tags are tags: the template reads its reasoning and calls from them.
ANSWERS = WITH_NAMES.filter(lambda text: not any(tag in text for tag in TAGS))


def conversation(
    texts: st.SearchStrategy[str], answers: st.SearchStrategy[str]
) -> st.SearchStrategy[list[dict[str, Any]]]:
    """A system message, turns with reasoning, a call and its result."""

    def build(system: str, first: str, thought: str, value: str, result: str, last: str, answer: str) -> Any:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": value}}}
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": first},
            {"role": "assistant", "content": answer, "reasoning_content": thought, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": result},
            {"role": "assistant", "content": answer, "reasoning_content": thought},
            {"role": "user", "content": [{"type": "text", "text": last}]},
        ]

    return st.builds(build, *[texts] * 6, answers)


def tools(description: str) -> list[dict[str, Any]]:
    parameters = {"type": "object", "properties": {"a": {"type": "string", "description": description}}}
    return [{"type": "function", "function": {"name": "f", "description": description, "parameters": parameters}}]


def ours(model: Model, source: str, messages: Any, tools: Any = None) -> list[Any]:
    template = ChatTemplate(source, eos_token=model.vocabulary.eos_token)
    return chat_prompt(model, template, messages, tools=tools, vision=lambda: None).items  # type: ignore[arg-type, return-value]


def theirs(tokenizer: Any, messages: Any, tools: Any = None, *, sanitize: bool) -> list[int]:
    return tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=sanitize
    )


@settings(deadline=None, max_examples=60)
@given(messages=conversation(TEXTS, TEXTS), description=TEXTS)
def test_ordinary_text_has_the_tokens_of_transformers(
    model: Model, tokenizer: Any, messages: list[dict[str, Any]], description: str
) -> None:
    found = ours(model, tokenizer.chat_template, messages, tools(description))
    assert found == theirs(tokenizer, messages, tools(description), sanitize=False)


@settings(deadline=None, max_examples=60)
@given(messages=conversation(WITH_NAMES, ANSWERS), description=WITH_NAMES)
def test_names_of_tokens_are_text_as_transformers_sanitizes_them(
    model: Model, tokenizer: Any, messages: list[dict[str, Any]], description: str
) -> None:
    found = ours(model, tokenizer.chat_template, messages, tools(description))
    assert found == theirs(tokenizer, messages, tools(description), sanitize=True)


@settings(deadline=None, max_examples=60)
@given(text=WITH_NAMES)
def test_a_message_ends_no_turn_and_holds_no_image(model: Model, tokenizer: Any, text: str) -> None:
    plain, named = (
        ours(model, tokenizer.chat_template, [{"role": "user", "content": content}]) for content in ("x", f"x{text}y")
    )
    control = [model.tokenize(name)[0] for name in model.vocabulary.control_tokens]
    assert [t for t in named if t in control] == [t for t in plain if t in control]


def test_parts_of_a_message_form_no_token(model: Model, tokenizer: Any) -> None:
    for halves in (("<|im_", "end|>"), ("a <", "|im_end|> b"), ("<|im_end", "|>"), ("<|im", "_end|>")):
        message = {"role": "user", "content": [{"type": "text", "text": half} for half in halves]}
        found = ours(model, tokenizer.chat_template, [message])
        assert found.count(model.tokenize("<|im_end|>")[0]) == 1
        assert b"".join(model.piece(token) for token in found).count("".join(halves).encode()) == 1


def test_parts_of_a_message_are_otherwise_one_text(model: Model, tokenizer: Any) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a <"}, {"type": "text", "text": "b> c"}]}
    assert ours(model, tokenizer.chat_template, [message]) == theirs(tokenizer, [message], sanitize=False)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes."},
        {"role": "assistant", "content": "<tool_call>\n<function=f>\n</function>\n</tool_call>"},
        {"role": "user", "content": "<tool_response>\nrain\n</tool_response>\n"},
    ],
)
def test_tags_that_are_the_models_own_stay(model: Model, tokenizer: Any, message: dict[str, str]) -> None:
    messages = [{"role": "user", "content": "Weather?"}, message, {"role": "user", "content": "And?"}]
    assert ours(model, tokenizer.chat_template, messages) == theirs(tokenizer, messages, sanitize=False)


def test_an_image_pad_in_a_text_needs_no_image(model: Model, tokenizer: Any) -> None:
    for text in ("<|image_pad|>", IMAGE_PLACE, "<|vision_start|><|video_pad|><|vision_end|>"):
        found = ours(model, tokenizer.chat_template, [{"role": "user", "content": text}])
        assert model.tokenize("<|image_pad|>")[0] not in found
        assert text.encode() in b"".join(model.piece(token) for token in found)


def test_what_escapes_json_keeps_the_marks(model: Model) -> None:
    source = "{{ messages[0].content | tojson(ensure_ascii=True) }}"
    for content in ("<|im_end|> é", "\\ud800 <think>", "\U00010000<think>", f"{START}{END}{BREAK}<think>"):
        found = b"".join(map(model.piece, ours(model, source, [{"role": "user", "content": content}]))).decode()
        assert json.loads(found) == content.encode("utf-8", "replace").decode()
        assert not set(map(model.vocabulary.text_of, ours(model, source, [{"role": "user", "content": content}]))) & {
            "<|im_end|>",
            "<think>",
        }


def test_surrogates_of_a_text_are_no_marks(model: Model) -> None:
    control_tokens = ControlTokens(model.vocabulary)
    forged = f"{START}a{END}{BREAK}<|im_end|>"
    assert control_tokens.mark(forged) == f"?a??{START}<|im_end|>{END}"
    assert control_tokens.mark({"<think>": [forged, 1, None]}) == {
        f"{START}<think>{END}": [f"?a??{START}<|im_end|>{END}", 1, None]
    }
