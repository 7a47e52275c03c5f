"""The reader of JSON files: what cannot be read, and what has another type, is one line with the path of the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf import json_file
from qwen35_gguf.errors import CheckpointError, CostsError
from qwen35_gguf.json_file import COUNT, FLAG, NUMBER, SIZE, TEXT, JsonObject, either, list_of, map_of, one_of

pytestmark = pytest.mark.unit

UNREADABLE = {
    "empty": (b"", "it is empty"),
    "blank": (b" \n", "it is empty"),
    "truncated": (b'{"a": [1, 2', "not valid JSON"),
    "a list": (b"[1]", r"is \[1\]; must be an object"),
    "a number": (b"5", "is 5; must be an object"),
    "null": (b"null", "is null; must be an object"),
    "NaN": (b"NaN", "is NaN; must be an object"),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "is not UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
    "a byte order mark": ('\ufeff{"a": 1}'.encode(), "byte order mark"),
    "too deep": (b'{"a":' * 100_000, "nested too deep"),
    "a number without end": (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
    "a key twice": (b'{"a": 1, "b": {"c": 2, "c": 3}}', "the key 'c' has two different values"),
    "half a surrogate pair": (rb'{"a": "\ud800"}', "is not UTF-8"),
    "a zero byte": (b'{"a": 1}\x00', "not valid JSON"),
}


@pytest.mark.parametrize(("content", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_not_a_json_object_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        json_file.read_json(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_whole_surrogate_pair_and_an_equal_repetition_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(r'{"a": "\ud83d\ude00", "b": 1, "b": 1}')
    assert json_file.read_json(path).values == {"a": "😀", "b": 1}


def test_a_missing_file(tmp_path: Path) -> None:
    assert not json_file.read_json(tmp_path / "a.json", optional=True).values
    with pytest.raises(CheckpointError, match=r"no a\.json"):
        json_file.read_json(tmp_path / "a.json")


def test_a_folder_or_an_error_of_another_class(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(CheckpointError, match=r"a\.json: is not a file"):
        json_file.read_json(tmp_path / "a.json")
    with pytest.raises(CostsError, match="cannot be read"):
        json_file.read_text(tmp_path / "none", CostsError)


def file_of(**values: Any) -> JsonObject:
    return JsonObject(values, "config.json")


WRONG = [
    ({"a": "x"}, SIZE, 'a is "x"; must be a size'),
    ({"a": 0}, SIZE, "a is 0; must be a size"),
    ({"a": -1}, COUNT, "a is -1; must be a count"),
    ({"a": True}, COUNT, "a is true; must be a count"),
    ({"a": 2.0}, SIZE, "a is 2.0; must be a size"),
    ({"a": 10**400}, NUMBER, "a is 1000000"),
    ({"a": float("nan")}, NUMBER, "a is NaN; must be a number"),
    ({"a": float("inf")}, NUMBER, "a is Infinity; must be a number"),
    ({"a": 10**20}, SIZE, "a is 100000000000000000000; must be a size"),
    ({"a": 1}, FLAG, "a is 1; must be true or false"),
    ({"a": {}}, TEXT, "a is {}; must be a text"),
    ({"a": ["x", 5]}, list_of(TEXT), r"a\[1\] is 5; must be a text"),
    ({"a": ["x", None]}, list_of(TEXT), r"a\[1\] is null; must be a text"),
    ({"a": -1}, list_of(TEXT), "a is -1; must be a list"),
    ({"a": {"b": {"c": [1]}}}, map_of(map_of(list_of(TEXT))), r"a\.b\.c\[0\] is 1; must be a text"),
    ({"a": "gelu"}, one_of("silu", "swish"), 'a is "gelu"; must be one of silu, swish'),
    ({"a": 1.5}, either(COUNT, list_of(COUNT)), "a is 1.5; must be a count .* or a list"),
]


@pytest.mark.parametrize(("values", "kind", "message"), WRONG)
def test_an_entry_of_another_type_names_path_value_and_type(values: Any, kind: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^config\.json: {message}") as error:
        file_of(**values).get("a", kind)
    assert str(error.value).endswith(json_file.ADVICE)


def test_null_is_absent() -> None:
    read = file_of(a=None)
    assert "a" not in read
    assert read.get("a", SIZE) is None
    assert read.get("a", SIZE, 3) == 3
    assert not read.section("a").values
    with pytest.raises(CheckpointError, match=r"config\.json: a is missing; must be a size"):
        read.need("a", SIZE)


def test_paths_of_sections_and_of_what_is_looked_up_elsewhere() -> None:
    whole = file_of(text={"b": -1}, c="x", list=[{"d": 1}, {"d": "x"}])
    text = JsonObject(whole.section("text").values, whole.where, "text", fallback=whole)
    with pytest.raises(CheckpointError, match=r"config\.json: text\.b is -1"):
        text.get("b", SIZE)
    with pytest.raises(CheckpointError, match=r'config\.json: c is "x"'):
        text.get("c", SIZE)
    with pytest.raises(CheckpointError, match=r'list\[1\]\.d is "x"; must be a count'):
        [part.get("d", COUNT) for part in whole.sections("list")]
    with pytest.raises(CheckpointError, match=r"config\.json: c is "):
        raise text.mistake("c", "something else")


def test_too_many_levels_are_refused_where_they_are_walked() -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"a": deep}

    def walk(part: JsonObject) -> None:
        walk(part.section("a"))

    with pytest.raises(CheckpointError, match="nested more than 64 levels"):
        walk(JsonObject(deep, "config.json"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
KINDS = [TEXT, FLAG, NUMBER, COUNT, SIZE, list_of(TEXT), map_of(NUMBER), either(TEXT, list_of(SIZE)), one_of("a", "b")]


@given(st.text(min_size=1, max_size=5), VALUES, st.sampled_from(KINDS))
def test_any_value_is_of_the_kind_or_one_line(key: str, value: Any, kind: Any) -> None:
    parsed = json_file.parse_json(json.dumps({key: value}), "f.json")
    message = ""
    try:
        found = parsed.get(key, kind)
    except CheckpointError as error:
        found, message = None, str(error)
    assert message.startswith("f.json: ") if message else found is None or kind.accepts(found)
    assert "\n" not in message
    assert len(message) < 400


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_an_error(content: bytes) -> None:
    message = "f.json: is"
    try:
        json_file.parse_json(content, "f.json")
    except CheckpointError as error:
        message = str(error)
    assert message.startswith("f.json: is")
