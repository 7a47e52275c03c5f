"""Tags act by their token: in any order with text that spells them, with stop texts, and without tokens for them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.architecture.tags import END_THINK, END_TOOL_CALL, TAGS, THINK, TOOL_CALL
from qwen35_gguf.runtime.chat.openai_types import Message, join_calls
from qwen35_gguf.runtime.chat.output_parser import RawText, ReplyParser

pytestmark = pytest.mark.unit

TOKENS = dict(enumerate(TAGS, start=1000))
IDS = {tag: token for token, tag in TOKENS.items()}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}]

Item = str | bytes | int  # text in ordinary tokens (each byte one), or a token


def read(items: Sequence[Item], parser: ReplyParser | RawText | None = None) -> Message:
    """Feed ordinary tokens, a byte each, and tags; the deltas must add up to the message."""
    parser = parser or ReplyParser(TOKENS, inside=True, tools=TOOLS)
    deltas = []
    for item in items:
        if isinstance(item, int):
            deltas += parser.feed(item, TOKENS[item].encode())
            continue
        data = item.encode() if isinstance(item, str) else item
        for byte in data:
            deltas += parser.feed(byte, bytes([byte]))
    deltas += parser.finish()
    message = parser.message()
    assert "".join(delta.content or "" for delta in deltas) == (message.content or "")
    assert "".join(delta.reasoning_content or "" for delta in deltas) == (message.reasoning_content or "")
    assert join_calls(piece for delta in deltas for piece in delta.tool_calls or ()) == (message.tool_calls or [])
    return message


CALL = ("\n<function=f>\n<parameter=a>\n", "\n</parameter>\n</function>\n")


def test_thinking_ends_at_the_token_and_not_at_the_text() -> None:
    message = read(["The tag </think> closes it, <tool_call> calls.", IDS[END_THINK], "\n\nSee </think> and <think>."])
    assert message.reasoning_content == "The tag </think> closes it, <tool_call> calls."
    assert message.content == "See </think> and <think>."
    assert message.tool_calls is None


def test_a_call_opens_and_closes_by_token() -> None:
    spelled = f"{TOOL_CALL}{CALL[0]}x{CALL[1]}{END_TOOL_CALL}"
    message = read([IDS[END_THINK], spelled, IDS[TOOL_CALL], CALL[0], END_TOOL_CALL, CALL[1], IDS[END_TOOL_CALL]])
    assert message.content == spelled
    assert [call.function.name for call in message.tool_calls or ()] == ["f"]
    assert [json.loads(call.function.arguments) for call in message.tool_calls or ()] == [{"a": END_TOOL_CALL}]


def test_a_value_may_hold_the_token_of_the_end() -> None:
    closing = IDS[END_TOOL_CALL]
    message = read([IDS[END_THINK], IDS[TOOL_CALL], CALL[0], "x ", closing, " y", CALL[1], closing])
    assert [call.function.arguments for call in message.tool_calls or ()] == [json.dumps({"a": "x </tool_call> y"})]


def test_without_tools_the_tags_of_a_call_are_shown() -> None:
    parser = ReplyParser(TOKENS)
    message = read([IDS[TOOL_CALL], "\n{}\n", IDS[END_TOOL_CALL]], parser)
    assert message.content == "<tool_call>\n{}\n</tool_call>"
    assert message.tool_calls is None


def test_tags_out_of_place_are_shown() -> None:
    message = read([IDS["<tool_response>"], "x", IDS[THINK], IDS[END_THINK], "y", IDS[END_THINK], IDS[THINK], "z"])
    assert message.reasoning_content == "<tool_response>x<think>"
    assert message.content == "y</think><think>z"


def test_a_think_block_that_the_model_opens() -> None:
    message = read(["\n", IDS[THINK], "so", IDS[END_THINK], "\n\nyes"], ReplyParser(TOKENS))
    assert (message.reasoning_content, message.content) == ("so", "yes")
    assert read(["<think>so</think>"], ReplyParser(TOKENS)).content == "<think>so</think>"


@pytest.mark.parametrize("missing", [{THINK, END_THINK}, {TOOL_CALL, END_TOOL_CALL}, set(TAGS)])
def test_a_vocabulary_without_a_token_falls_back_to_text(missing: set[str]) -> None:
    known = {token: tag for token, tag in TOKENS.items() if tag not in missing}
    items: list[Item] = ["so", END_THINK, "\n\nfirst", TOOL_CALL, CALL[0], "x", CALL[1], END_TOOL_CALL]
    items = [IDS[item] if isinstance(item, str) and item in TAGS and item not in missing else item for item in items]
    message = read(items, ReplyParser(known, inside=True, tools=TOOLS))
    assert (message.reasoning_content, message.content) == ("so", "first")
    assert [call.function.arguments for call in message.tool_calls or ()] == ['{"a": "x"}']


def test_what_begins_like_a_missing_tag_is_shown_at_the_end() -> None:
    assert read(["a <tool_cal"], ReplyParser({}, tools=TOOLS)).content == "a <tool_cal"


@pytest.mark.parametrize("stop", [TOOL_CALL, f"x{TOOL_CALL}", f"{TOOL_CALL}\n"])
@pytest.mark.parametrize("spelled", [False, True])
def test_a_stop_text_with_a_tag(stop: str, spelled: bool) -> None:
    parser = ReplyParser(TOKENS, stop=[stop])
    message = read(["before x", TOOL_CALL if spelled else IDS[TOOL_CALL], "\nafter"], parser)
    assert parser.stopped
    assert message.content == "before x".removesuffix("x" if stop.startswith("x") else "")


@pytest.mark.parametrize("stop", ["\n", "x", "function", "</parameter>", "</", "f>\n"])
def test_a_stop_text_inside_of_a_call_does_not_count(stop: str) -> None:
    call: list[Item] = [IDS[TOOL_CALL], CALL[0], "x", CALL[1], IDS[END_TOOL_CALL]]
    parser = ReplyParser(TOKENS, tools=TOOLS, stop=[stop])
    message = read(["before", *call, f"after{stop}end"], parser)
    assert parser.stopped
    assert message.content == "beforeafter"
    assert [call.function.arguments for call in message.tool_calls or ()] == ['{"a": "x"}']


@pytest.mark.parametrize("stop", [TOOL_CALL, f"e{TOOL_CALL}", f"{TOOL_CALL}\n<function=f>"])
def test_a_stop_text_that_begins_with_a_call_or_before_it_counts(stop: str) -> None:
    parser = ReplyParser(TOKENS, tools=TOOLS, stop=[stop])
    message = read(["before", IDS[TOOL_CALL], CALL[0], "x", CALL[1], IDS[END_TOOL_CALL]], parser)
    assert parser.stopped
    assert message.content == "before".removesuffix("e" if stop.startswith("e") else "")
    assert message.tool_calls is None


def test_a_stop_text_is_found_in_either_form() -> None:
    for stop in ("caf\u00e9", "cafe\u0301"):
        assert read(["a caf\u00e9 b"], ReplyParser(TOKENS, stop=[stop])).content == "a "
        assert read(["a caf\u00e9 b"], RawText([stop])).content == "a "
    assert read(["a cafe\u0301 b"], RawText(["cafe\u0301"])).content == "a "


def test_raw_text_has_tags_as_text() -> None:
    assert read([IDS[THINK], "é", IDS[END_THINK]], RawText()).content == "<think>é</think>"


def test_bytes_that_are_no_character_are_left_out() -> None:
    parser = ReplyParser(TOKENS)
    message = read([b"a\xc3", IDS[THINK], b"b", b"\xff", "é"], parser)
    assert message.content == "a<think>bé"


ITEMS = st.one_of(
    st.sampled_from(list(TOKENS)), st.sampled_from([*TAGS, *CALL, "<", "</think", " ", "\n"]), st.text(max_size=4)
)


@given(st.lists(ITEMS, max_size=12), st.booleans())
def test_nothing_but_tags_and_space_is_lost(items: list[Item], inside: bool) -> None:
    message = read(items, ReplyParser(TOKENS, inside=inside, tools=TOOLS))
    if not message.tool_calls:
        fed = "".join(TOKENS[item] if isinstance(item, int) else str(item) for item in items)
        kept = (message.reasoning_content or "") + (message.content or "")
        rest = iter("".join(fed.split()))
        assert all(letter in rest for letter in "".join(kept.split()))  # in this order
        lost = len("".join(fed.split())) - len("".join(kept.split()))
        assert lost in {0, len(THINK), len(END_THINK), len(THINK + END_THINK)}
