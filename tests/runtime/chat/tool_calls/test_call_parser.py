"""Tool calls: what the published template writes is read back, however it is split, and nothing else is a call."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.runtime.chat.openai_types import Call, CallDelta, Function, join_calls
from qwen35_gguf.runtime.chat.tags import marked, spelled
from qwen35_gguf.runtime.chat.tool_calls.call_parser import ToolCallParser, parse

pytestmark = pytest.mark.unit

# How the published chat template (Qwen3.5) writes an assistant's message.
TEMPLATE = r"""
{%- for tool_call in message.tool_calls %}
    {%- set tool_call = tool_call.function %}
    {%- if loop.first %}
        {%- if content|trim %}
            {{- '\n\n<tool_call>\n<function=' + tool_call.name + '>\n' }}
        {%- else %}
            {{- '<tool_call>\n<function=' + tool_call.name + '>\n' }}
        {%- endif %}
    {%- else %}
        {{- '\n<tool_call>\n<function=' + tool_call.name + '>\n' }}
    {%- endif %}
    {%- for args_name, args_value in tool_call.arguments|items %}
        {{- '<parameter=' + args_name + '>\n' }}
        {%- set args_value = args_value | tojson | safe if args_value is mapping or (args_value is sequence and args_value is not string) else args_value | string %}
        {{- args_value }}
        {{- '\n</parameter>\n' }}
    {%- endfor %}
    {{- '</function>\n</tool_call>' }}
{%- endfor %}"""  # noqa: E501

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "order",
            "parameters": {
                "type": "object",
                "properties": {
                    "note": {"type": "string"},
                    "count": {"type": "integer"},
                    "price": {"type": "number"},
                    "gift": {"type": "boolean"},
                    "until": {"type": ["integer", "null"]},
                    "items": {"type": "array", "items": {"type": "string"}},
                    "address": {"$ref": "#/$defs/address"},
                },
                "$defs": {"address": {"type": "object", "properties": {"city": {"type": "string"}}}},
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {}}},
]

text = st.text(st.characters(codec="utf-8", exclude_characters="<>"), max_size=12)
order = st.fixed_dictionaries(
    {},
    optional={
        "note": st.one_of(
            text, st.sampled_from(["<b>", "a </parameter> b", "</tool_call>", "\n", " 5 ", "{}", "true"])
        ),
        "count": st.integers(),
        "price": st.floats(allow_nan=False, allow_infinity=False),
        "gift": st.booleans(),
        "until": st.none() | st.integers(),
        "items": st.lists(text, max_size=3),
        "address": st.fixed_dictionaries({"city": text}),
    },
)
calls_of = st.lists(st.tuples(st.just("order"), order) | st.tuples(st.just("now"), st.just({})), max_size=3)
# Texts with many ways to be nearly a call.
pieces = st.lists(
    st.sampled_from(
        [
            *["<tool_call>", "</tool_call>", "<function=order>", "</function>", "<parameter=note>", "</parameter>"],
            *["<parameter=count>", "\n", " ", "x", "5", "<", "<tool", "_call>"],
            "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        ]
    ),
    max_size=14,
).map("".join)


def written(content: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    environment = jinja2.Environment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)  # as transformers has it
    message = {"tool_calls": [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]}
    return content + environment.from_string(TEMPLATE).render(message=message, content=content)


def counted() -> Any:
    numbers = itertools.count()
    return lambda: f"call_{next(numbers)}"


Item = str | CallDelta


def call(number: int, name: str, arguments: str = "{}") -> Call:
    return Call(f"call_{number}", Function(name, arguments), number)


def streamed(parts: list[str], *, truncated: bool = False) -> list[Item]:
    """Feed a text with marks in parts; the tags in content are spelled again."""
    parser = ToolCallParser(TOOLS, counted())
    found = [item for part in parts for item in parser.feed(part)] + parser.finish(truncated=truncated)
    return [spelled(item) if isinstance(item, str) else item for item in found]


def joined(items: list[Item]) -> list[str | Call]:
    """Neighbouring texts, and the pieces of each call, put together."""
    found: list[str | Call] = []
    for number, group in itertools.groupby(items, lambda item: None if isinstance(item, str) else item.index):
        if number is None:
            found.append("".join(item for item in group if isinstance(item, str)))
        else:
            found += join_calls(item for item in group if isinstance(item, CallDelta))
    return found


@settings(deadline=None)
@given(text, calls_of)
def test_what_the_template_writes_is_read_back(content: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    found, made = parse(written(content, calls), TOOLS)
    assert [call.function.name for call in made] == [name for name, _ in calls]
    assert [call.function.arguments for call in made] == [_json(given) for _, given in calls]
    assert found == (content.rstrip() if calls else content)


@settings(deadline=None, max_examples=300)
@given(st.one_of(pieces, st.builds(written, text, calls_of)), st.booleans(), st.data())
def test_any_split_gives_the_same(whole: str, truncated: bool, data: st.DataObject) -> None:
    whole = marked(whole)[: data.draw(st.integers(0, len(whole))) if truncated else None]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parts = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]
    first, *others = [joined(streamed(each, truncated=truncated)) for each in (parts, [whole], list(whole))]
    assert others == [first, first]


@settings(deadline=None)
@given(text, st.integers(1, 5))
def test_a_text_comes_while_it_is_written(note: str, step: int) -> None:
    note = f"see {note}."
    begun = marked(f"<tool_call>\n<function=order>\n<parameter=note>\n{note}")
    parser = ToolCallParser(TOOLS, counted())
    found = [item for at in range(0, len(begun), step) for item in parser.feed(begun[at : at + step])]
    assert len(pieces_of(found)) >= 2  # its name, and what there is of the text
    assert [made.function for made in join(found)] == [Function("order", _json({"note": note})[:-2])]
    found += parser.feed(marked("\n</parameter>\n</function>\n</tool_call>"))
    assert [made.function for made in join(found)] == [Function("order", _json({"note": note}))]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@settings(deadline=None, max_examples=300)
@given(pieces)
def test_nothing_is_added_and_without_a_call_nothing_is_taken_away(whole: str) -> None:
    found = streamed([marked(whole)])
    content = "".join(item for item in found if isinstance(item, str))
    if not any(isinstance(item, CallDelta) for item in found):
        assert content == whole
    rest = iter(whole)
    assert all(letter in rest for letter in content)  # in this order


def test_nothing_is_held_back_longer_than_it_has_to_be() -> None:
    parser = ToolCallParser(TOOLS, counted())
    steps = ["I will ", "look.", "\n\n", "<tool_call>\n<function=order>\n<parameter=cou", "nt>\n3\n</parameter>\n"]
    assert [parser.feed(marked(step)) for step in steps] == [["I will"], [" look."], [], [], []]
    assert join(parser.feed(marked("</function>\n</tool_call>"))) == [call(0, "order", '{"count": 3}')]
    again = marked("\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n")
    assert join(parser.feed(again)) == [call(1, "now")]
    assert parser.finish() == []
    parser = ToolCallParser(TOOLS, counted())
    steps = [
        *("<tool_call>\n<function=order>\n<parameter=note>", "\n", 'Dear "you', "\n", "!</", "b>", "</para", "meter>"),
        *("\n</func", "</parameter>\n<parameter=count>", "\n1", "2\n</parameter>\n", "<parameter=until>", "nul"),
        *("l</parameter>", "</function></tool_call>"),
    ]
    texts = ["".join(piece.function.arguments for piece in pieces_of(parser.feed(marked(step)))) for step in steps]
    assert texts == [
        *("", "", r'{"note": "Dear \"you', "", r"\n!", "</b>", "", ""),
        *("", r'</parameter>\n</func"', "", "", ', "count": 12', "", "", ', "until": null}'),
    ]


def pieces_of(items: list[Item]) -> list[CallDelta]:
    return [item for item in items if isinstance(item, CallDelta)]


def join(items: list[Item]) -> list[Call]:
    return join_calls(pieces_of(items))


@pytest.mark.parametrize(
    "broken",
    [
        "<tool_call>\n</tool_call>",
        '<tool_call>\n{"name": "order"}\n</tool_call>',
        "<tool_call>\n<function=order>\n</tool_call>",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        "<tool_call>\n<function=order>\nfree text\n</function>\n</tool_call>",
        "<tool_call>\n<function=order>\n<parameter=count>\n1\n</function>\n</tool_call>",
        "</tool_call> <function=order></function>",
    ],
)
def test_a_malformed_call_is_text_and_the_next_one_is_a_call(broken: str) -> None:
    assert parse(f"see {broken} ", TOOLS) == (f"see {broken} ", [])
    good = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    assert parse(f"{good}\n{broken}", TOOLS, counted()) == (f"\n{broken}", [call(0, "now")])
    assert parse(f"{broken}\n{good}", TOOLS, counted()) == (broken, [call(0, "now")])


def test_of_two_values_of_a_parameter_the_first_counts() -> None:
    values = "".join(f"<parameter=count>\n{number}\n</parameter>\n" for number in (1, 2))
    found = parse(f"<tool_call>\n<function=order>\n{values}</function>\n</tool_call>", TOOLS, counted())
    assert found == ("", [call(0, "order", '{"count": 1}')])


def test_a_call_that_lacks_only_its_last_tag_is_taken() -> None:
    assert parse("<tool_call>\n<function=now>\n</function>\n", TOOLS, counted()) == ("", [call(0, "now")])


@pytest.mark.parametrize("truncated", [False, True])
def test_the_arguments_of_a_call_that_does_not_end_are_those_that_came(truncated: bool) -> None:
    begun = marked("I look.\n\n<tool_call>\n<function=order>\n<parameter=note>\nso")
    assert joined(streamed([begun], truncated=truncated)) == ["I look.", call(0, "order", '{"note": "so')]
    more = begun + "\n</parameter>\n<parameter=count>\n1"
    assert joined(streamed([more], truncated=truncated)) == ["I look.", call(0, "order", '{"note": "so"')]


def test_the_beginning_of_a_truncated_call_is_not_content() -> None:
    begun = marked("I look.\n\n<tool_call>\n<function=order>\n<parameter=count>\n1")
    assert streamed([begun], truncated=True) == ["I look."]
    whole = marked("<tool_call>\n<function=now>\n</function>\n")
    assert joined(streamed([whole], truncated=True)) == [call(0, "now")]


def test_an_unknown_function_is_called_with_strings() -> None:
    text = "<tool_call>\n<function=unknown>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
    (made,) = parse(text)[1]
    assert made.function == Function("unknown", '{"a": "1"}')
    assert made.id.startswith("call_")
