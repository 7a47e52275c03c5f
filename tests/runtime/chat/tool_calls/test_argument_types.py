"""A value's text has the type that the schema tells, and is sent early only if nothing can change that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.chat.tool_calls.argument_types import convert, is_text

pytestmark = pytest.mark.unit

ROOT = {"$defs": {"loop": {"$ref": "#/$defs/loop"}, "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}


@pytest.mark.parametrize(
    ("written_as", "schema", "value"),
    [
        ("True", {"type": "boolean"}, True),
        ("false", {"type": "boolean"}, False),
        ("yes", {"type": "boolean"}, "yes"),
        ("5.0", {"type": "integer"}, 5),
        ("5.5", {"type": "integer"}, "5.5"),
        ("1_0", {"type": "integer"}, "1_0"),
        ("1e3", {"type": "number"}, 1000.0),
        ("NaN", {"type": "number"}, "NaN"),
        ("None", {"type": ["string", "null"]}, None),
        ("7", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 7),
        ("7", {"type": "string"}, "7"),
        ("7", {}, "7"),
        ("[1, 2]", {}, [1, 2]),
        ("[1, 2", {"type": "array"}, "[1, 2"),
        ('{"a": NaN}', {"type": "object"}, '{"a": NaN}'),
        ("[" * 100_000, {"type": "array"}, "[" * 100_000),
        ("2", {"enum": [1, 2, "3"]}, 2),
        ("3", {"enum": [1, 2, "3"]}, "3"),
        ("x", {"$ref": "#/$defs/loop"}, "x"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
        ("x", {"type": {"odd": 1}, "anyOf": [3]}, "x"),
    ],
)
def test_types(written_as: str, schema: Any, value: Any) -> None:
    found = convert(written_as, schema, ROOT)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("begun", "schema", "certain"),
    [
        ("", {"type": "string"}, True),
        ("5", {"type": "string"}, True),
        ("", {"$ref": "#/$defs/maybe"}, False),
        ("nul", {"$ref": "#/$defs/maybe"}, False),
        (" null ", {"$ref": "#/$defs/maybe"}, False),
        ("nuls", {"$ref": "#/$defs/maybe"}, True),
        ("None of", {"type": ["string", "null"]}, True),
        ("Fal", {"type": ["string", "boolean"]}, False),
        ("-", {"type": ["string", "integer"]}, False),
        ("five", {"type": ["string", "number"]}, True),
        ("{", {"type": ["string", "object"]}, False),
        ("a", {"type": ["string", "array"]}, True),
        (" ", None, False),
        ("[", {}, False),
        ("x", {}, True),
        ("1", {"enum": [12, "x"]}, False),
        ("x", {"enum": [12, "x"]}, True),
        ("x", {"const": 5}, True),
        ("x", 7, True),
    ],
)
def test_what_is_certain_of_a_beginning(begun: str, schema: Any, certain: bool) -> None:
    assert is_text(begun, schema, ROOT) is certain


PARTS = st.sampled_from(
    ["null", "None", "true", "False", "1", "-", ".5", "e3", "{", "}", "[", "]", '"a"', ":", " ", "\n", "x"]
)
KINDS = st.sampled_from(["string", "null", "boolean", "integer", "number", "object", "array", "odd"])
SCHEMAS = st.one_of(
    st.fixed_dictionaries({"type": st.lists(KINDS, max_size=3)}),
    st.fixed_dictionaries({"enum": st.lists(st.sampled_from([1, None, True, "x", [1], "null", -0.5]), max_size=3)}),
    st.just({"$ref": "#/$defs/maybe"}),
)


@given(st.lists(PARTS, max_size=6).map("".join), SCHEMAS, st.data())
def test_a_value_that_is_certainly_text_stays_text(text: str, schema: Any, data: st.DataObject) -> None:
    begun = text[: data.draw(st.integers(0, len(text)))]
    if is_text(begun, schema, ROOT):
        assert json.dumps(convert(text, schema, ROOT)) == json.dumps(text)
        assert is_text(text, schema, ROOT)


def test_alternatives_of_alternatives_are_looked_at_once() -> None:
    wide = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 40} for n in range(7)}
    root = {"$defs": {**wide, "d7": {"type": "integer"}}}
    assert convert("3", {"$ref": "#/$defs/d0"}, root) == 3
    assert convert("x", {"$ref": "#/$defs/d0"}, root) == "x"
    assert not is_text("3", {"allOf": [{"$ref": "#/$defs/d0"}]}, root)
    around = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"oneOf": [{"$ref": "#/$defs/a"}]}, {"type": "null"}]}}}
    assert convert("null", {"$ref": "#/$defs/a"}, around) is None


@pytest.mark.parametrize("value", [5, True, "text", {"type": "integer"}, None])
@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf", "type", "enum"])
def test_schemas_that_are_none_leave_text(keyword: str, value: object) -> None:
    assert convert("text", {keyword: value}) == "text"


@pytest.mark.parametrize("text", ["[1e999]", '{"a": -1e999}', "1e999"])
def test_numbers_beyond_all_bounds_are_no_json(text: str) -> None:
    assert convert(text, None) == text
    assert convert(text, {"type": ["number", "array", "object"]}) == text
