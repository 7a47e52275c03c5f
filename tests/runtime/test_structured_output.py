"""Answers of a model have the form that was asked for: with thinking, drafts, penalties, streams, side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import pytest

from inputs.chat_requests import HELLO, TOOL
from qwen35_gguf.errors import GrammarError, MessageError, Qwen35Error
from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.chat.structured.masks import GrammarMask
from qwen35_gguf.runtime.engine.token_mask import Grammar
from qwen35_gguf.runtime.llama.batch import Part
from qwen35_gguf.runtime.llama.context import Context


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    age: int = pydantic.Field(ge=0, le=150)
    tags: list[str] = pydantic.Field(max_length=0)


SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 15},
        "number": {"type": "number", "minimum": 1, "maximum": 9},
    },
    "required": ["text", "number"],
    "additionalProperties": False,
}


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize(
    "how", [{"temperature": 0}, {"temperature": 1.5, "top_k": 0, "top_p": 1.0}, {"presence_penalty": 2}]
)
def test_drafts_change_nothing(shared: Qwen35, thinking: bool, how: dict[str, Any]) -> None:
    found = [
        shared.chat(
            HELLO, response_format=form(SCHEMA), thinking=thinking, thinking_budget=6, seed=3, draft=draft, **how
        )
        for draft in (0, 1, 2)
    ]
    texts = {result.text for result in found}
    assert len(texts) == 1
    if found[0].choices[0].finish_reason == "stop":
        value = json.loads(texts.pop())
        assert set(value) == {"text", "number"}
        assert 1 <= value["number"] <= 9


def test_strings_have_no_control_characters(shared: Qwen35) -> None:
    for seed in range(8):
        result = shared.chat(
            HELLO, response_format=form({"type": "string", "maxLength": 40}), thinking=False, seed=seed, temperature=1.0
        )
        assert result.parsed == json.loads(result.text)


@pytest.mark.parametrize("tag", ["</think>", "<tool_call>", "<|im_end|>"])
def test_a_tag_may_be_a_name_and_a_value(shared: Qwen35, tag: str) -> None:
    schema = {"type": "object", "properties": {tag: {"const": f"a{tag}"}}, "required": [tag]}
    result = shared.chat(
        HELLO, response_format=form({**schema, "additionalProperties": False}), thinking=False, temperature=0
    )
    assert result.parsed == {tag: f"a{tag}"}


def test_a_class_is_read_and_a_truncated_answer_is_not(shared: Qwen35) -> None:
    result = shared.chat(HELLO, response_format=Person, thinking=False, seed=1)
    assert isinstance(result.parsed, Person)
    assert result.parsed is result.parsed
    assert "answer_type" not in result.to_dict()
    json.dumps(result.to_dict())
    short = shared.chat(HELLO, response_format=Person, thinking=False, seed=1, max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.parsed is None
    assert shared.chat(HELLO, thinking=False, max_tokens=2).parsed is None


def test_a_stream_gives_the_same_text(shared: Qwen35) -> None:
    options: dict[str, Any] = {"response_format": form(SCHEMA), "thinking": False, "seed": 5}
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in shared.chat(HELLO, stream=True, **options) if chunk.choices
    ]
    assert "".join(pieces) == shared.chat(HELLO, **options).text


def test_several_prompts_have_the_form_also_after_thinking(shared: Qwen35) -> None:
    prompts = ["One", HELLO, "Two"]
    for result in shared.generate_many(prompts, response_format=form({"enum": ["🎉x", 7]}), thinking=False, seed=2):
        assert result.parsed in ("🎉x", 7)
    assert shared.generate("Once", response_format=form({"const": 'a"\n'}), seed=1).parsed == 'a"\n'


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"grammar": Grammar("regex", r"\d{3}-[a-c]x")}, r"\d{3}-[a-c]x"),
        ({"response_format": {"type": "regex", "regex": "(yes|no)!"}}, "(yes|no)!"),
        ({"grammar": Grammar("lark", 'start: "a" NUMBER\nNUMBER: /[0-9]{2}/')}, r"a\d\d"),
        ({"response_format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x" | "y"'}}, "[xy]"),
        ({"grammar": 'root ::= "a" [0-9] "b"'}, r"a\db"),
        ({"response_format": {"type": "gbnf", "gbnf": 'root ::= "é" | "ü"'}}, "[éü]"),
    ],
)
def test_grammars_of_every_syntax(shared: Qwen35, options: dict[str, Any], pattern: str) -> None:
    for draft in (0, 2):
        result = shared.chat(HELLO, thinking=False, seed=1, draft=draft, **options)
        assert re.fullmatch(pattern, result.text)
        assert result.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "options",
    [
        {"grammar": "root ::= ("},
        {"grammar": "root ::= missing"},
        {"grammar": 'root ::= root "a"'},
        {"grammar": "not a grammar"},
        {"grammar": "\0"},
        {"grammar": Grammar("lark", "start: (")},
        {"grammar": Grammar("lark", "begin: /a/")},
        {"grammar": Grammar("regex", "(a")},
        {"grammar": Grammar("regex", "(?=a)b")},
        {"response_format": {"type": "lark"}},
        {"response_format": {"type": "grammar", "syntax": "xml", "definition": "x"}},
        {"response_format": {"type": ["json_object"]}},
        {"response_format": "json"},
        {"response_format": form({"$ref": "https://example.com"})},
        {"response_format": form({"type": "string", "pattern": "\\1"})},
    ],
)
def test_a_bad_form_is_one_line_and_nothing_is_printed(
    shared: Qwen35, options: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    for call in (lambda: shared.chat(HELLO, **options), lambda: shared.generate("a", **options)):
        with pytest.raises(GrammarError) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("thinking", [False, True])
def test_a_call_is_forced(shared: Qwen35, choice: Any, thinking: bool) -> None:
    tool = json.loads(json.dumps(TOOL))
    tool["function"]["parameters"] |= {"required": ["city"]}
    tool["function"]["parameters"]["properties"]["city"]["maxLength"] = 8
    for draft in (0, 2):
        result = shared.chat(
            HELLO,
            tools=[tool],
            tool_choice=choice,
            thinking=thinking,
            thinking_budget=5,
            parallel_tool_calls=False,
            draft=draft,
            seed=2,
        )
        (call,) = result.choices[0].message.tool_calls or ()
        assert not result.text
        assert set(json.loads(call.function.arguments)) == {"city"}
        assert result.choices[0].finish_reason == "tool_calls"
        assert result.parsed is None


def test_what_cannot_be_combined_is_refused(shared: Qwen35) -> None:
    with pytest.raises(GrammarError, match="both are given"):
        shared.chat(HELLO, grammar="root ::= x", response_format={"type": "json_object"})
    with pytest.raises(MessageError, match="tool_choice"):
        shared.chat(HELLO, tools=[TOOL], tool_choice="required", response_format={"type": "json_object"})
    with pytest.raises(Qwen35Error, match="parallel_tool_calls"):
        shared.chat(HELLO, tools=[TOOL], parallel_tool_calls="no")  # type: ignore[call-overload]


def test_forced_tokens_are_not_sampled(files: list[Path]) -> None:
    with Qwen35(files[0], n_ctx=512, n_threads=1, draft=0) as model:
        calls = []
        evaluate = model._loaded.engine.main.evaluate_parts
        model._loaded.engine.main.evaluate_parts = lambda *a, **k: (calls.append(a), evaluate(*a, **k))[1]  # type: ignore[method-assign]
        schema = {"const": {"a long name of a property": "and a long value of it"}}
        result = model.chat(HELLO, response_format=form(schema), thinking=False, temperature=0)
        assert result.parsed == schema["const"]
        assert len(calls) < result.timings.tokens / 2


FIXED = {  # nearly all of its text is fixed
    "type": "object",
    "properties": {
        "status": {"const": "The request was received and is being processed."},
        "accepted": {"type": "boolean"},
    },
    "required": ["status", "accepted"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("draft", [0, 2])
def test_what_a_schema_fixes_takes_no_calls_of_its_own(
    shared: Qwen35, monkeypatch: pytest.MonkeyPatch, draft: int
) -> None:
    calls: list[int] = []
    fixed: list[int] = []
    main = shared._loaded.engine.main
    real, forced = Context.evaluate_parts, GrammarMask.forced

    def evaluate(context: Context, parts: Sequence[Part]) -> None:
        if context is main:
            calls.append(sum(len(part.tokens) for part in parts))
        real(context, parts)

    def counted(mask: GrammarMask) -> list[int]:
        tokens = forced(mask)
        fixed.extend(tokens)
        return tokens

    monkeypatch.setattr(Context, "evaluate_parts", evaluate)
    found = []
    for known in (counted, lambda _: []):
        monkeypatch.setattr(GrammarMask, "forced", known)
        calls.clear()
        shared.chat(HELLO, max_tokens=1, thinking=False)
        before = len(calls)  # of the prompt, which is known then
        answer = shared.chat(HELLO, response_format=form(FIXED), thinking=False, temperature=0, draft=draft)
        found.append((answer.text, answer.usage.completion_tokens, len(calls) - before))
    (text, tokens, fewer), (slow_text, slow_tokens, more) = found
    assert text == slow_text
    assert json.loads(text)["status"] == FIXED["properties"]["status"]["const"]  # type: ignore[index]
    assert tokens == slow_tokens
    assert len(fixed) > tokens / 2
    assert fewer <= tokens - len(fixed) + 1  # a call for each token that is chosen, and one of the prompt
    if not draft:
        assert more >= tokens - 1
