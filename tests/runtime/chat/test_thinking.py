"""Reasoning and content told apart, however the text is split; stop texts found, however the text is split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.architecture.tags import END_THINK, THINK
from qwen35_gguf.runtime.chat.output_parser import StopText
from qwen35_gguf.runtime.chat.tags import MARKS
from qwen35_gguf.runtime.chat.thinking import Splitter, starts_inside

pytestmark = pytest.mark.unit

OPEN, CLOSE = MARKS[THINK], MARKS[END_THINK]
PARTS = st.sampled_from([OPEN, CLOSE, THINK, END_THINK, "<th", ">", " ", "\n", "a", "é", "🙂", "<", "/"])
TEXTS = st.lists(PARTS, max_size=12).map("".join)


def split(text: str, cuts: list[int], *, inside: bool) -> tuple[str, str]:
    """Feed pieces; return reasoning and content."""
    splitter = Splitter(inside=inside)
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [piece for a, b in itertools.pairwise(edges) for piece in splitter.feed(text[a:b])]
    texts = ["".join(piece.text for piece in pieces if piece.reasoning is kind) for kind in (True, False)]
    return texts[0], texts[1]


@given(text=TEXTS, cuts=st.lists(st.integers(0, 1000), max_size=8), inside=st.booleans())
def test_cuts_change_nothing(text: str, cuts: list[int], inside: bool) -> None:
    assert split(text, cuts, inside=inside) == split(text, [], inside=inside)


@given(reasoning=st.text(), content=st.text(), cuts=st.lists(st.integers(0, 1000), max_size=8))
def test_what_was_put_in_comes_out(reasoning: str, content: str, cuts: list[int]) -> None:
    expected = reasoning.strip(), content.strip()
    text = f"{reasoning}\n{CLOSE}\n\n{content}"
    for form, inside in ((text, True), (OPEN + text, False)):
        found = split(form, cuts, inside=inside)
        assert (found[0].strip(), found[1].strip()) == expected


def test_a_block_is_taken_at_the_beginning_only() -> None:
    text = f"first {OPEN}no{CLOSE}"
    assert split(text, [], inside=False) == ("", text)


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
    assert bool(stopper.found) is (first is not None)
    assert stopper.found == "" or text[len(given_out) :].startswith(stopper.found)
    assert text.startswith(given_out)
    assert not any(stop in given_out for stop in stops)
    if first is None:
        assert given_out == text
