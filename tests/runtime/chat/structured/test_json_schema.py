"""What a JSON schema says is enforced, as jsonschema judges it, or refused by the keyword's name and path."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from inputs.json_schemas import SCHEMAS
from oracles.random_answers import sample, text_of
from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured.answer_form import answer_form, answer_mask
from qwen35_gguf.runtime.chat.structured.json_schema import ANNOTATIONS, KEYWORDS, REFUSED, check
from qwen35_gguf.runtime.chat.structured.object_keywords import MAX_PATTERNS
from qwen35_gguf.runtime.chat.structured.token_grammars import TokenGrammars, byte_matcher, json_grammar

CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER
finished: Counter[bool] = Counter()


def answers(grammars: TokenGrammars, schema: Any, seeds: range) -> list[Any]:
    """Sample answers, and return those that came to their end."""
    form = answer_form({"type": "json_schema", "json_schema": {"schema": schema}}, None)
    found = []
    for seed in seeds:
        mask = answer_mask(grammars, form)
        tokens, ended = sample(mask, grammars.vocabulary, seed)
        finished[ended] += 1
        if ended:
            found.append(json.loads(text_of(tokens, grammars.vocabulary)))
    return found


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(SCHEMAS, st.integers(0, 1000))
def test_every_finished_answer_is_valid(grammars: TokenGrammars, schema: Any, seed: int) -> None:
    validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKER)
    try:
        found = answers(grammars, schema, range(seed, seed + 2))
    except GrammarError:
        reject()
    for value in found:
        validator.validate(value)


def test_most_random_answers_come_to_their_end() -> None:
    assert finished[True] > 5 * finished[False]


# ---- keywords ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", REFUSED)
def test_a_keyword_that_is_not_enforced_is_refused_by_name_and_path(keyword: str) -> None:
    with pytest.raises(GrammarError, match=rf"^JSON schema: {re.escape(keyword)} at #/properties/a is not supported"):
        check({"type": "object", "properties": {"a": {keyword: {}}}})


@pytest.mark.parametrize("keyword", ["minLenght", "maxlength", "oneof", "requird", "💥", "two\nlines"])
def test_a_misspelled_keyword_is_refused(keyword: str) -> None:
    with pytest.raises(GrammarError, match="at #/items is not a known keyword") as caught:
        check({"items": {keyword: 1}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keyword", sorted(set(KEYWORDS) - set(REFUSED) - set(ANNOTATIONS) - {"additionalItems", "const", "enum"})
)
def test_a_keyword_with_a_value_of_a_wrong_type_is_refused(keyword: str) -> None:
    with pytest.raises(GrammarError, match="^JSON schema: ") as caught:
        check({"items": {keyword: [{"odd": 1.5}]}})
    assert keyword in str(caught.value) or "/items" in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "https://example.com/s.json"}, r"\$ref at # names 'https://example.com/s.json'"),
        ({"$ref": "#/$defs/absent"}, r"\$ref at # names '#/\$defs/absent'"),
        ({"type": "string", "pattern": "(?=a)"}, "pattern at # .*look-around"),
        ({"type": "string", "format": "iri"}, "format at # is 'iri'"),
        ({"type": "integer", "minimum": 2**63}, "minimum at # .*out of range"),
        ({"type": "integer", "minimum": -(2**63)}, "minimum at # .*out of range"),
        ({"const": 2**63}, "const at # has the number"),
        ({"enum": [1e300]}, "enum at # has the number"),
        ({"enum": [10**400]}, "enum at # has the number"),
        ({"const": {"a": [-(10**400)]}}, "const at # has the number"),
        ({"enum": ["\ud800"]}, "enum at # has half of a surrogate pair"),
        ({"type": "number", "multipleOf": 0.1}, "multipleOf at # is 0.1"),
        ({"type": "object", "minProperties": 3}, "minProperties at # 3"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "#/oneOf cannot be enforced .*not certainly disjoint"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "# cannot be enforced .*minimum"),
        ({"properties": {"a": {"$id": "https://example.com"}}}, r"\$id at #/properties/a"),
        ({"type": "object", "properties": 3}, "properties at # is not an object"),
        ({"type": "x"}, "type at # is 'x'"),
        ({"a": float("nan")}, "is not JSON"),
        (False, "cannot be used"),
    ],
)
def test_messages_name_the_keyword_and_its_path(schema: Any, words: str) -> None:
    with pytest.raises(GrammarError, match=words) as caught:
        json_grammar(check(schema))
    assert "\n" not in str(caught.value)


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(3000):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match="nested too deeply"):
        check(schema)


def name_patterns(first: int, count: int) -> dict[str, Any]:
    return {"patternProperties": {f"^a{number}(b|c)*$": {"type": "null"} for number in range(first, first + count)}}


@pytest.mark.parametrize(
    "schema",
    [
        name_patterns(0, MAX_PATTERNS + 1),
        {"allOf": [name_patterns(0, MAX_PATTERNS // 2), name_patterns(500, MAX_PATTERNS // 2 + 1)]},
        {"items": name_patterns(0, MAX_PATTERNS), "additionalProperties": {"propertyNames": {"pattern": "^x"}}},
    ],
    ids=["one object", "allOf", "two objects"],
)
def test_so_many_patterns_of_names_that_they_take_long_are_refused(schema: Any) -> None:
    with pytest.raises(GrammarError, match="patternProperties|propertyNames at .* more than 128 patterns"):
        check(schema)
    assert accepts(name_patterns(0, MAX_PATTERNS), '{"a127bcb": null}')


def accepts(schema: Any, text: str) -> bool:
    matcher = byte_matcher(json_grammar(check(schema)))
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())


@pytest.mark.parametrize(
    ("schema", "text", "valid"),
    [
        ({"type": "string"}, '"\x01"', False),
        ({"type": "string"}, '"a\nb"', False),
        ({"enum": ["🎉x", 'q"\\\n', "\x00", ""]}, '"🎉x"', True),
        ({"enum": ["🎉x", 'q"\\\n', "\x00", ""]}, '"q\\"\\\\\\n"', True),
        ({"enum": ["🎉x", 'q"\\\n', "\x00", ""]}, '"\\u0000"', True),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"\\u0061": "x"}', False),
        ({"type": "object", "properties": {"": True}, "required": [""]}, '{"": 1}', True),
        ({"type": "object", "properties": {"next": {"$ref": "#"}}}, '{"next": {"next": {}}}', True),
        ({"$anchor": "top", "type": "array", "items": {"$ref": "#top"}}, "[[], []]", True),
        ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "null"}}}, "null", True),
        ({"type": "string", "pattern": r"^\d$"}, '"٣"', False),
        ({"type": "integer", "minimum": 5, "maximum": 7}, "8", False),
        ({"type": "number", "exclusiveMinimum": 0.5}, "0.5", False),
        ({"type": "string", "nullable": True}, "null", True),
        ({"type": "string", "format": "date"}, '"2023-02-29"', False),
        ({"type": "string", "format": "date"}, '"2024-02-29"', True),
        ({"type": "string", "format": "time"}, '"24:00:00Z"', False),
        ({"type": "object"}, '{"a": {"b": [1, 2]}}', True),
        ({"type": "object"}, '{ "a": 1}', False),
        ({"dependentRequired": {"a": ["b"]}, "type": "object"}, '{"a": 1}', False),
        ({"type": "integer"}, "9" * 30, False),
    ],
)
def test_single_answers(schema: Any, text: str, valid: bool) -> None:
    assert accepts(schema, text) is valid


@pytest.mark.parametrize("last", [{"type": "null"}, {"const": True}, {"enum": ["a", 2.5]}])
def test_constants_that_differ_are_one_of(grammars: TokenGrammars, last: dict[str, Any]) -> None:
    schema = {"oneOf": [{"const": 1, "title": "One"}, {"const": "x", "title": "Two"}, last]}
    found = answers(grammars, schema, range(12))
    assert {str(value) for value in found} > {"1"}
    for value in found:
        jsonschema.validate(value, schema)


@pytest.mark.parametrize("last", [{"const": 1.0}, {"enum": ["a", 1]}])
def test_constants_that_are_in_two_branches_are_refused(last: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match="not certainly disjoint"):
        answer_form({"type": "json_schema", "json_schema": {"schema": {"oneOf": [{"const": 1}, last]}}}, None)


@pytest.mark.parametrize("limit", [3, 4])
def test_items_that_must_differ_are_found_up_to_the_last(grammars: TokenGrammars, limit: int) -> None:
    schema = {"type": "array", "uniqueItems": True, "minItems": limit, "items": {"enum": ["cat", "car", 1, [True]]}}
    for value in answers(grammars, schema, range(5)):
        assert len(value) >= limit
        jsonschema.validate(value, schema)


def test_more_items_than_there_are_values_is_an_error(grammars: TokenGrammars) -> None:
    with pytest.raises(GrammarError, match="allows no token here|uniqueItems"):
        answers(grammars, {"type": "array", "uniqueItems": True, "minItems": 3, "items": {"type": "boolean"}}, range(1))
