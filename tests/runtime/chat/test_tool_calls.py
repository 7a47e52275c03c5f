"""Tool calls: what the published template writes is read back, however it is split, and nothing else is a call."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import ToolError
from qwen35_gguf.runtime.chat import tool_calls
from qwen35_gguf.runtime.chat.tags import marked, spelled
from qwen35_gguf.runtime.chat.tool_calls import ToolCall, ToolCallParser, convert, parse

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


def streamed(parts: list[str]) -> list[str | ToolCall]:
    """Feed a text with marks in parts; the tags in content are spelled again."""
    parser = ToolCallParser(TOOLS, counted())
    found = [item for part in parts for item in parser.feed(part)] + parser.finish()
    return [spelled(item) if isinstance(item, str) else item for item in found]


def joined(items: list[str | ToolCall]) -> list[str | ToolCall]:
    """Neighbouring texts put together."""
    groups = itertools.groupby(items, lambda item: isinstance(item, str))
    return [part for is_text, group in groups for part in (["".join(group)] if is_text else group)]


@settings(deadline=None)
@given(text, calls_of)
def test_what_the_template_writes_is_read_back(content: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    found, made = parse(written(content, calls), TOOLS)
    assert [(call.name, call.arguments) for call in made] == calls
    assert found == (content.rstrip() if calls else content)
    for call, (_, arguments) in zip(made, calls, strict=True):
        assert all(type(call.arguments[key]) is type(value) for key, value in arguments.items())


@settings(deadline=None, max_examples=300)
@given(st.one_of(pieces, st.builds(written, text, calls_of)), st.data())
def test_any_split_gives_the_same(whole: str, data: st.DataObject) -> None:
    whole = marked(whole)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parts = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]
    assert joined(streamed(parts)) == joined(streamed([whole])) == joined(streamed(list(whole)))


@settings(deadline=None, max_examples=300)
@given(pieces)
def test_nothing_is_added_and_without_a_call_nothing_is_taken_away(whole: str) -> None:
    found = streamed([marked(whole)])
    content = "".join(item for item in found if isinstance(item, str))
    if not any(isinstance(item, ToolCall) for item in found):
        assert content == whole
    rest = iter(whole)
    assert all(letter in rest for letter in content)  # in this order


def test_content_is_not_held_back_longer_than_it_has_to_be() -> None:
    parser = ToolCallParser(TOOLS, counted())
    steps = ["I will ", "look.", "\n\n", "<tool_call>\n<function=order>\n<parameter=cou", "nt>\n3\n</parameter>\n"]
    assert [parser.feed(marked(step)) for step in steps] == [["I will"], [" look."], [], [], []]
    assert parser.feed(marked("</function>\n</tool_call>")) == [ToolCall("call_0", "order", {"count": 3})]
    again = marked("\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n")
    assert parser.feed(again) == [ToolCall("call_1", "now", {})]
    assert parser.finish() == []


@pytest.mark.parametrize(
    "broken",
    [
        "<tool_call>\n</tool_call>",
        '<tool_call>\n{"name": "order"}\n</tool_call>',
        "<tool_call>\n<function=order>\n</tool_call>",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        "<tool_call>\n<function=order>\nfree text\n</function>\n</tool_call>",
        "<tool_call>\n<function=order>\n<parameter=count>\n1\n</function>\n</tool_call>",
        "<tool_call>\n<function=order>\n<parameter=count>\n1\n</parameter>\n<parameter=count>\n2\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=order>\n<parameter=note>\ncut off",
        "</tool_call> <function=order></function>",
    ],
)
def test_a_malformed_call_is_text_and_the_next_one_is_a_call(broken: str) -> None:
    assert parse(f"see {broken} ", TOOLS) == (f"see {broken} ", [])
    good = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
    assert parse(f"{good}\n{broken}", TOOLS, counted()) == (f"\n{broken}", [ToolCall("call_0", "now", {})])
    content, calls = parse(f"{broken}\n{good}", TOOLS, counted())
    assert (content, calls) == (broken, [ToolCall("call_0", "now", {})])


def test_a_call_that_lacks_only_its_last_tag_is_taken() -> None:
    assert parse("<tool_call>\n<function=now>\n</function>\n", TOOLS, counted()) == (
        "",
        [ToolCall("call_0", "now", {})],
    )


def test_the_beginning_of_a_truncated_call_is_not_content() -> None:
    text = "I look.\n\n<tool_call>\n<function=order>\n<parameter=note>\nso"
    parser = ToolCallParser(TOOLS, counted())
    assert "".join(str(item) for item in [*parser.feed(marked(text)), *parser.finish(truncated=True)]) == "I look."
    parser = ToolCallParser(TOOLS, counted())
    parser.feed(marked("<tool_call>\n<function=now>\n</function>\n"))
    assert [item.name for item in parser.finish(truncated=True) if isinstance(item, ToolCall)] == ["now"]


def test_openai_objects() -> None:
    call = ToolCall("call_1", "order", {"note": "é", "count": 2})
    function = {"name": "order", "arguments": '{"note": "é", "count": 2}'}
    assert call.openai() == {"id": "call_1", "type": "function", "function": function}
    assert call.openai(3) == {"index": 3, "id": "call_1", "type": "function", "function": function}
    (made,) = parse("<tool_call>\n<function=unknown>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>")[1]
    assert made.arguments == {"a": "1"}
    assert made.id.startswith("call_")


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
    found = convert(written_as, schema, {"$defs": {"loop": {"$ref": "#/$defs/loop"}}})
    assert found == value
    assert type(found) is type(value)


def test_a_request_is_checked() -> None:
    assert tool_calls.check_tools([{"name": "f"}]) == [{"type": "function", "function": {"name": "f"}}]
    for tools in [
        "f",
        [1],
        [{"function": {}}],
        [{"name": "a b"}],
        [{"name": "f"}, {"name": "f"}],
        [{"name": "f", "parameters": 1}],
    ]:
        with pytest.raises(ToolError, match="^tools: "):
            tool_calls.check_tools(tools)


def test_a_history_is_checked_and_decoded() -> None:
    call = ToolCall("call_1", "order", {"count": 2}).openai()
    result = {"role": "tool", "tool_call_id": "call_1", "content": "done"}
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}, result]
    decoded = tool_calls.for_template(history)
    assert decoded[1]["tool_calls"][0]["function"]["arguments"] == {"count": 2}
    assert decoded[2] == result
    assert written("", [("order", {"count": 2})]).count("2") == 1
    assert history[1]["tool_calls"][0]["function"]["arguments"] == '{"count": 2}'  # the caller's own is left alone
    bad = {"id": "x", "function": {"name": "f", "arguments": "{"}}
    for messages, message in [
        ([history[0], result], "unknown call 'call_1'"),
        ([history[0], {"role": "tool", "content": "x"}], "no call before it"),
        ([{"role": "assistant", "tool_calls": [bad]}], "the arguments of f are not JSON"),
        ([{"role": "assistant", "tool_calls": 5}], "tool_calls is not a list"),
        ([{"role": "assistant", "tool_calls": {"function": {"name": "f"}}}], "tool_calls is not a list"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}], "not a JSON object"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "no function with a name"),
    ]:
        with pytest.raises(ToolError, match=message):
            tool_calls.for_template(messages)
