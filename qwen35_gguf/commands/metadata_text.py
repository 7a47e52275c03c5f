"""Metadata values on one line of a terminal."""

from __future__ import annotations

import json

from gguf import GGUFValueType

from qwen35_gguf.gguf_file.keyvalue import KeyValue

LONG_ARRAY, FIRST = 8, 4  # elements of an array from which on it is abbreviated, and those that are shown
WIDTH = 100  # characters


def shorten(entry: KeyValue) -> str:
    """Write a value on one line; of a long array the first elements, of a long text the beginning."""
    value = entry.value
    if entry.type == GGUFValueType.ARRAY and entry.count > LONG_ARRAY:
        return _truncate(f"{entry.count:,}: {json.dumps(value[:FIRST], ensure_ascii=False)[:-1]}, ...")
    return _truncate(json.dumps(value, ensure_ascii=False))


def _truncate(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}..."
