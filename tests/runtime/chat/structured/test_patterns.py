"""Patterns mean after the translation what ECMAScript, and Python where that differs, agree about."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured.patterns import literal, translate, whole

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?=a)b",
        r"^(?!.*x)y",
        r"(?<=a)b",
        r"(?<!a)b",
        r"\bword\b",
        r"\B",
        r"(a)\1",
        r"(?P<n>a)\k<n>",
        "[]",
        "[a",
        r"\q",
        "a\\",
        r"\ud800",
        r"(?x)a",
        r"[a-\d]",
    ],
)
def test_what_cannot_be_expressed_is_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(GrammarError, match="support|not|is|ends") as caught:
        translate(pattern)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^\d+$", "^[0-9]+$"),
        (r"[\d.]", r"[[0-9]\.]"),
        (r"a{2,3}{", r"a{2,3}\{"),
        (r"\cA\x41\u{1f389}", r"\u{1}\u{41}\u{1f389}"),
        (r"\ud83c\udf89", r"\u{1f389}"),
        (r"(?<year>\d)", "([0-9])"),
        (r"[a&&b]", r"[a\&\&b]"),
        (r"[[:alpha:]]", r"[\[:alpha:]\]"),
        ("]", r"\]"),
        (r"\A.\Z", r"^[^\n\r\u{2028}\u{2029}]$"),
        (r"[\b]", r"[\x08]"),
        (r"\-\_\/", r"\-_\/"),
    ],
)
def test_the_engine_s_syntax(pattern: str, expected: str) -> None:
    assert translate(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "texts", "others"),
    [
        ("^a|b$", ["a1", "1b", "ab"], ["1a", "b1"]),
        ("(a|b)c", ["1ac2", "bc"], ["c", "a"]),
        (r"^a\$$", ["a$"], ["a", "a$1"]),
        ("^[$^]$", ["$", "^"], ["a"]),
    ],
)
def test_a_whole_text_is_matched_without_anchors(pattern: str, texts: list[str], others: list[str]) -> None:
    expression = re.compile(whole(translate(pattern)).replace(r"\u{", "{"))
    assert all(expression.fullmatch(text) for text in texts)
    assert not any(expression.fullmatch(text) for text in others)


def test_an_anchor_inside_is_refused() -> None:
    with pytest.raises(GrammarError, match="anchor"):
        whole(translate("a^b"))


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12))
def test_a_literal_matches_itself_alone(text: str) -> None:
    assert re.fullmatch(literal(text), text)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_translated_or_refused(text: str) -> None:
    with contextlib.suppress(GrammarError):
        translate(text)
