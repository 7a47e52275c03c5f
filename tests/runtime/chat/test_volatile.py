"""What patterns match is removed from the texts of messages, and nothing else changes."""

from __future__ import annotations

import re

import pytest

from qwen35_gguf.runtime.chat.volatile import without_volatile

pytestmark = pytest.mark.unit

PATTERNS = [re.compile(r"cch=\w+;?"), re.compile(r"\d\d:\d\d")]


def test_texts_lose_what_is_matched() -> None:
    messages = [
        {"role": "system", "content": "cch=ab12; It is 12:30."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "at 10:00"}, "cch=1", {"type": "image", "image": "10:00"}],
        },
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    assert without_volatile(messages, PATTERNS) == [
        {"role": "system", "content": " It is ."},
        {"role": "user", "content": [{"type": "text", "text": "at "}, "", {"type": "image", "image": "10:00"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]


@pytest.mark.parametrize("given", [None, 5, "12:30", {"role": "user"}, [5, None]])
def test_what_is_malformed_is_left_to_others(given: object) -> None:
    assert without_volatile(given, PATTERNS) == given
    assert without_volatile(given, []) is given
