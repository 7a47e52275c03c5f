"""Calls that are sampled at random are parsed as calls, and their arguments are valid by the tools' schemas."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from oracles.random_answers import RandomChain, sample
from qwen35_gguf.architecture.tags import END_TOOL_CALL, TOOL_CALL
from qwen35_gguf.errors import ToolError
from qwen35_gguf.runtime.chat.output_parser import ReplyParser
from qwen35_gguf.runtime.chat.structured.answer_form import answer_form, answer_mask, call_form
from qwen35_gguf.runtime.chat.structured.token_grammars import TokenGrammars, byte_matcher, lark_grammar
from qwen35_gguf.runtime.chat.structured.tool_grammar import calls_rules, tool_grammar
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 3, "maximum": 500},
        "unit": {"enum": ["c", "f", 'q"\\\n🎉', ""]},
        "exact": {"type": "boolean"},
        "note": {"type": ["string", "null"], "minLength": 1, "maxLength": 5},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3},
        "tree": {"$ref": "#/$defs/tree"},
        "day": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": r"^[a/]{2,5}b|c$", "maxLength": 12},
        "mixed": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^x{1,4}$"}]},
        "level": {"enum": [1, 2.5, None, True, "high", {"a": 1}]},
        "colour": {"allOf": [{"$ref": "#/$defs/colour"}], "default": "red"},
    },
    "required": ["city", "days"],
    "$defs": {
        "tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}}, "additionalProperties": False},
        "colour": {"type": "string", "enum": ["red", "blue"]},
    },
}
TOOLS = check_tools(
    [
        {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
        {"name": "now"},
    ]
)


def answer(
    grammars: TokenGrammars, choice: Any, seed: int, parallel: bool | None = None
) -> tuple[Any, list[Any], bool]:
    """Sample an answer, and return what the parser makes of it."""
    mask = answer_mask(grammars, None, call_form(TOOLS, choice, parallel))
    tokens, ended = sample(mask, grammars.vocabulary, seed, most=1500)
    parser = ReplyParser(grammars.vocabulary.tags, tools=TOOLS)
    for token in tokens:
        parser.feed(token, grammars.vocabulary.piece(token))
    parser.finish(truncated=not ended)
    return parser.message().content, parser.message().tool_calls or [], ended


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_forced_calls_are_calls_with_valid_arguments(grammars: TokenGrammars, choice: Any) -> None:
    names = set()
    for seed in range(25):
        content, calls, ended = answer(grammars, choice, seed)
        assert not content
        assert calls or not ended
        for call in calls:
            names.add(call.function.name)
            if call.function.name == "weather":
                jsonschema.validate(
                    json.loads(call.function.arguments),
                    PARAMETERS,
                    format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
                )
    assert names == ({"weather", "now"} if choice == "required" else {"weather"})


FREE = check_tools(
    [
        {"name": "loose", "strict": False, "parameters": {"type": "object", "not": {}}},
        {"name": "note", "parameters": {"type": "object", "properties": {"text": {"type": "string"}, "any": {}}}},
        {"name": "set", "parameters": {"type": "object", "additionalProperties": {"type": "integer"}}},
    ]
)


@pytest.mark.parametrize(
    ("call", "allowed"),
    [
        ("loose>\n<parameter=x>\n[1, oh\n</parameter>\n<parameter=y z>\n\n</parameter>\n", False),
        ("loose>\n<parameter=x>\n[1, oh\n</parameter>\n<parameter=y>\n\n</parameter>\n", True),
        ("note>\n<parameter=text>\na < b <</param <b>é</b>\n\n</parameter>\n", True),
        ("note>\n<parameter=text>\na</parameter>\n</parameter>\n", False),
        ("note>\n<parameter=text>\n<</parameter>\n</parameter>\n", False),
        ("note>\n<parameter=any>\n{'a': 1}\n</parameter>\n", True),
        ("note>\n<parameter=other>\n1\n</parameter>\n", False),
        ("set>\n<parameter=a-b>\n12\n</parameter>\n", True),
        ("set>\n<parameter=a-b>\ntwelve\n</parameter>\n", False),
        ("absent>\n", False),
    ],
)
def test_single_calls(call: str, allowed: bool) -> None:
    form = call_form(FREE, "required", None)
    assert form is not None
    matcher = byte_matcher(lark_grammar(calls_rules(form.grammar, {}, parallel=False)))
    data = list(f"<tool_call>\n<function={call}</function>\n</tool_call>".encode())
    assert (matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()) is allowed


def test_without_parallel_calls_there_is_one(grammars: TokenGrammars) -> None:
    counts = [len(answer(grammars, "required", seed, False)[1]) for seed in range(20)]
    assert max(counts) == 1
    assert max(len(answer(grammars, "required", seed)[1]) for seed in range(20)) > 1


@pytest.mark.parametrize("parallel", [True, False])
def test_auto_holds_from_the_moment_a_call_opens(grammars: TokenGrammars, parallel: bool) -> None:
    vocabulary = grammars.vocabulary
    opening, closing = (
        next(t for t, tag in vocabulary.tags.items() if tag == name) for name in (TOOL_CALL, END_TOOL_CALL)
    )
    mask = answer_mask(grammars, None, call_form(TOOLS, "auto", parallel))
    assert mask is not None
    for token in vocabulary.tokenize_plain("Let me see <tool_call> as a word.\n\n"):  # not the token
        mask.accept(token)
    assert mask.forced() == []
    mask.accept(opening)
    parser = ReplyParser(vocabulary.tags, tools=TOOLS)
    parser.feed(opening, vocabulary.piece(opening))
    chain = RandomChain(vocabulary, 1)
    token = opening
    while token != closing:
        token = mask.choose(chain, np.zeros(vocabulary.size, np.float32))
        mask.accept(token)
        parser.feed(token, vocabulary.piece(token))
    assert parser.message().tool_calls
    if parallel:
        mask.accept(opening)  # another one
    else:
        assert vocabulary.ends(mask.choose(chain, np.zeros(vocabulary.size, np.float32)))


def test_a_schema_of_the_content_leaves_calls_possible(grammars: TokenGrammars) -> None:
    form = answer_form({"type": "json_object"}, None)
    mask = answer_mask(grammars, form, call_form(TOOLS, "auto", None))
    assert mask is not None
    opening = next(token for token, tag in grammars.vocabulary.tags.items() if tag == TOOL_CALL)
    mask.accept(opening)
    other = answer_mask(grammars, form, call_form(TOOLS, None, None))
    assert other is not None
    other.accept(grammars.vocabulary.tokenize_plain("{")[0])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"type": "object", "properties": {"a": {"not": {}}}}, "not at #/properties/a .*strict"),
        ({"type": "object", "anyOf": [{"required": ["a"]}]}, "a combination of schemas"),
        ({"type": "object", "properties": {"a\n": {}}}, "cannot be written in a tag"),
        ({"type": "object", "properties": {"a": {"minLength": 2}}}, "parameter a: .*does not have a type"),
        (
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 2}}},
            "parameter a: .*minimum",
        ),
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
        ({"type": "array"}, "type"),
        ({"type": "object", "minProperties": 1}, "minProperties"),
        ({"type": "object", "properties": {"a": {"enum": ["</parameter>"]}}}, "tag of its end"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_tool_and_keyword(parameters: Any, words: str) -> None:
    tools = check_tools([{"name": "f", "parameters": parameters}])
    with pytest.raises(ToolError, match=words) as caught:
        call_form(tools, "auto", None)
    assert str(caught.value).startswith("tools: f: ")
    assert "\n" not in str(caught.value)
    loose = check_tools([{"name": "f", "parameters": parameters, "strict": False}])
    assert call_form(loose, "auto", None) is not None


def test_long_names_are_shortened_in_messages() -> None:
    parameters = {"type": "object", "properties": {"a" * 5000: {"minLength": 2}}}
    with pytest.raises(ToolError, match="does not have a type") as caught:
        call_form(check_tools([{"name": "f" * 5000, "parameters": parameters}]), "auto", None)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("choice", ["perhaps", 3, {"function": {}}, {"function": {"name": "absent"}}, ["weather"]])
def test_a_choice_that_is_none_is_refused(choice: Any) -> None:
    with pytest.raises(ToolError, match="tool_choice: "):
        call_form(TOOLS, choice, None)


def test_none_and_no_tools_restrict_nothing() -> None:
    assert call_form(TOOLS, "none", None) is None
    assert call_form(None, "auto", None) is None
    with pytest.raises(ToolError, match="tool_choice: required"):
        call_form(None, "required", None)
    with pytest.raises(ToolError, match="parallel_tool_calls"):
        call_form(TOOLS, "auto", "yes")


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
@pytest.mark.parametrize("last", [{"type": "string"}, False, {"type": "string", "maxLength": 3}], ids=str)
def test_alternatives_of_alternatives_are_too_many(keyword: str, last: Any) -> None:
    wide = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 40} for n in range(7)}
    parameters = {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**wide, "d7": last}}
    with pytest.raises(ToolError):
        tool_grammar(check_tools([{"name": "f", "parameters": {"type": "object", **parameters}}]))
