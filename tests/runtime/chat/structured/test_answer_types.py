"""Ordinary pydantic models are accepted, and random answers are valid for their schema and for the model itself."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pydantic
import pytest
from typing_extensions import TypedDict

from oracles.random_answers import sample, text_of
from qwen35_gguf.errors import AnswerError, GrammarError, MissingDependencyError
from qwen35_gguf.runtime.chat.structured.answer_form import answer_form, answer_mask
from qwen35_gguf.runtime.chat.structured.token_grammars import TokenGrammars


class Colour(enum.Enum):
    RED = "red"
    BLUE = 'bl"ue'


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: Annotated[int, pydantic.Field(ge=0, le=9)]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    name: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=8, pattern=r"^\w+$")]


class Tree(pydantic.BaseModel):
    value: bool
    left: Tree | None = None


class Scalars(pydantic.BaseModel):
    optional: int | None = None
    either: int | str | None
    literal: Literal["a", 2, None]
    colour: Colour
    level: Level
    fraction: Annotated[float, pydantic.Field(gt=0.5, lt=2)]
    multiple: Annotated[int, pydantic.Field(multiple_of=3, lt=100)]
    price: Annotated[decimal.Decimal, pydantic.Field(ge=0, max_digits=5, decimal_places=2)]
    amount: decimal.Decimal
    nothing: None


class Texts(pydantic.BaseModel):
    when: dt.datetime
    day: dt.date
    hour: dt.time
    lasting: dt.timedelta
    identity: uuid.UUID
    random: pydantic.UUID4
    place: Path
    secret: pydantic.SecretStr
    address: pydantic.IPvAnyAddress
    page: pydantic.HttpUrl


class Collections(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    words: Annotated[list[Annotated[str, pydantic.Field(max_length=4)]], pydantic.Field(min_length=1, max_length=3)]
    unique: Annotated[set[int], pydantic.Field(max_length=3)]
    frozen: Annotated[frozenset[Literal["x", "y"]], pydantic.Field(max_length=2)]
    pair: tuple[int, bool]
    many: Annotated[tuple[float, ...], pydantic.Field(max_length=2)]
    by_name: Annotated[dict[str, int], pydantic.Field(max_length=2)]
    by_colour: dict[Colour, int]
    by_number: Annotated[dict[int, bool], pydantic.Field(max_length=2)]
    anything: Annotated[list[Any], pydantic.Field(max_length=1)]


class Nested(pydantic.BaseModel):
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
    pets: Annotated[list[Cat | Dog], pydantic.Field(max_length=2)]
    tree: Tree
    renamed: int = pydantic.Field(alias="re-named")


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Movie(TypedDict):
    title: str
    year: int


TYPES = [
    Cat,
    Dog,
    Tree,
    Scalars,
    Texts,
    Collections,
    Nested,
    Point,
    Movie,
    list[Level],
    Literal["yes", "no"],
    int | None,
]


@pytest.mark.parametrize("wanted", TYPES, ids=str)
def test_ordinary_types_are_accepted_and_their_answers_are_read(grammars: TokenGrammars, wanted: Any) -> None:
    form = answer_form(wanted, None)
    assert form is not None
    assert form.type is not None
    ended = 0
    for seed in range(4):
        tokens, end = sample(answer_mask(grammars, form), grammars.vocabulary, seed, most=1500)
        if end:
            ended += 1
            text = text_of(tokens, grammars.vocabulary)
            value = form.type.read(text)
            jsonschema.validate(
                pydantic.TypeAdapter(Any).validate_json(text), pydantic.TypeAdapter(wanted).json_schema()
            )
            pydantic.TypeAdapter(wanted).validate_python(value)
    assert ended


@pytest.mark.parametrize("wanted", [Dog, Tree, Scalars, Point, Movie], ids=str)
def test_an_answer_has_the_fields_of_a_class_and_no_others(wanted: Any) -> None:
    form = answer_form(wanted, None)
    assert form is not None
    assert form.type is not None
    schemas = [form.type.schema, *form.type.schema.get("$defs", {}).values()]
    assert all(each["additionalProperties"] is False for each in schemas if "properties" in each)


def test_a_decimal_is_finite() -> None:
    form = answer_form(Scalars, None)
    assert form is not None
    assert form.type is not None
    amount = form.type.schema["properties"]["amount"]
    assert -1e16 < amount["minimum"] < 0 < amount["maximum"] < 1e16


def test_a_class_that_keeps_other_fields_may_get_them() -> None:
    class Open(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        known: bool

    form = answer_form(Open, None)
    assert form is not None
    assert form.type is not None
    assert form.type.schema["additionalProperties"] is True


def test_an_answer_that_only_the_class_refuses_is_an_error() -> None:
    class Even(pydantic.BaseModel):
        number: int

        @pydantic.field_validator("number")
        @classmethod
        def check(cls, value: int) -> int:
            if value % 2:
                raise ValueError("is odd")
            return value

    form = answer_form(Even, None)
    assert form is not None
    assert form.type is not None
    assert form.type.read('{"number": 2}').number == 2
    with pytest.raises(AnswerError, match="answer: is not valid for Even .*is odd") as caught:
        form.type.read('{"number": 3}')
    assert "\n" not in str(caught.value)


def test_a_class_with_the_methods_of_pydantic_needs_no_pydantic(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own:
        @staticmethod
        def model_json_schema() -> dict[str, str]:
            return {"type": "integer"}

        @staticmethod
        def model_validate_json(text: str) -> tuple[str, int]:
            return "own", int(text)

    monkeypatch.setitem(sys.modules, "pydantic", None)
    form = answer_form(Own, None)
    assert form is not None
    assert form.type is not None
    assert form.type.read("5") == ("own", 5)
    with pytest.raises(MissingDependencyError, match="pydantic is needed for answers of type Point"):
        answer_form(Point, None)


@pytest.mark.parametrize("wanted", [3, "json", [1], object(), lambda: 1])
def test_what_is_not_a_type_is_refused(wanted: Any) -> None:
    with pytest.raises(GrammarError, match="^response_format: ") as caught:
        answer_form(wanted, None)
    assert "\n" not in str(caught.value)
