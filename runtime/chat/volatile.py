"""Remove text that changes with each request, and is of no use, from messages: a prompt is known again then."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def without_volatile(messages: Any, patterns: Sequence[re.Pattern[str]]) -> Any:
    """Return messages without what the patterns match in their texts; anything else as it is."""
    if not patterns or not isinstance(messages, Sequence) or isinstance(messages, str):
        return messages
    return [_message(message, patterns) for message in messages]


def _message(message: Any, patterns: Sequence[re.Pattern[str]]) -> Any:
    if not isinstance(message, Mapping):
        return message
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": _text(content, patterns)}
    if not isinstance(content, Sequence):
        return message
    return {**message, "content": [_part(part, patterns) for part in content]}


def _part(part: Any, patterns: Sequence[re.Pattern[str]]) -> Any:
    if isinstance(part, str):
        return _text(part, patterns)
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return {**part, "text": _text(part["text"], patterns)}
    return part


def _text(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    for pattern in patterns:
        text = pattern.sub("", text)
    return text
