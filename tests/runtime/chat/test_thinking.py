"""Reasoning and content told apart, however the text is split; stop texts found, however the text is split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.runtime.chat.output_parser import ReplyParser, StopText
from qwen35_gguf.runtime.chat.thinking import CLOSE, OPEN, Splitter, starts_inside

pytestmark = pytest.mark.unit

PARTS = st.sampled_from([OPEN, CLOSE, "<th", "</think", ">", " ", "\n", "a", "bé", "🙂", "<", "/"])
TEXTS = st.lists(PARTS, max_size=12).map("".join)


def split(data: bytes, cuts: list[int], *, inside: bool) -> tuple[str, str]:
    """Feed pieces; return reasoning and content."""
    splitter = Splitter(inside=inside)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [piece for a, b in itertools.pairwise(edges) for piece in splitter.feed(data[a:b])]
    pieces += splitter.finish()
    texts = ["".join(piece.text for piece in pieces if piece.reasoning is kind) for kind in (True, False)]
    return texts[0], texts[1]


@given(text=TEXTS, cuts=st.lists(st.integers(0, 1000), max_size=8), inside=st.booleans())
def test_cuts_change_nothing(text: str, cuts: list[int], inside: bool) -> None:
    assert split(text.encode(), cuts, inside=inside) == split(text.encode(), [], inside=inside)


@given(reasoning=st.text(), content=st.text(), cuts=st.lists(st.integers(0, 1000), max_size=8))
def test_what_was_put_in_comes_out(reasoning: str, content: str, cuts: list[int]) -> None:
    reasoning, content = (text.replace("think>", "").strip() for text in (reasoning, content))
    form = f"{reasoning}\n{CLOSE}\n\n{content}"
    data = form.encode(errors="ignore")
    clean = tuple(text.encode(errors="ignore").decode().strip() for text in (reasoning, content))
    found = split(data, cuts, inside=True)
    assert (found[0].strip(), found[1].strip()) == clean
    found = split(OPEN.encode() + data, cuts, inside=False)
    assert (found[0].strip(), found[1].strip()) == clean


def test_a_block_is_taken_at_the_beginning_only() -> None:
    assert split(b"first <think>no</think>", [], inside=False) == ("", "first <think>no</think>")


def test_bytes_that_are_no_character_are_left_out() -> None:
    assert split("aé".encode()[:-1] + b"b\xff", [], inside=False) == ("", "ab")


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("Hi", False),
        ("<think> x", False),
    ],
)
def test_where_a_prompt_ends(prompt: str, inside: bool) -> None:
    assert starts_inside(prompt) is inside


STOPS = st.lists(st.sampled_from(["a", "ab", "aba", "bb", "ba b"]), max_size=3)


@given(text=st.text("ab "), stops=STOPS, cuts=st.lists(st.integers(0, 50), max_size=6))
def test_a_stop_text_is_found_wherever_it_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    stopper = StopText(stops)
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    given_out = "".join(stopper.feed(text[a:b]) for a, b in itertools.pairwise(edges)) + stopper.finish()
    first = min((at for at in map(text.find, stops) if at >= 0), default=None)
    # What comes in pieces may end a stop text before an earlier, longer one is complete.
    assert stopper.found is (first is not None)
    assert text.startswith(given_out)
    assert not any(stop in given_out for stop in stops)
    if first is None:
        assert given_out == text


def test_a_call_is_text_without_tools() -> None:
    text = b"<tool_call>\n<function=f>\n</function>\n</tool_call>"
    plain = ReplyParser()
    plain.feed(text)
    plain.finish()
    assert plain.message().content == text.decode()
    assert plain.message().tool_calls is None
