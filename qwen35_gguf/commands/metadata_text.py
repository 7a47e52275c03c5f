"""Metadata values on one line of a terminal."""

from __future__ import annotations

import json
import struct
from typing import Any

from gguf import GGUFValueType

from qwen35_gguf.gguf_file.keyvalue import KeyValue

LONG_ARRAY, FIRST = 8, 4  # elements of an array from which on it is abbreviated, and those that are shown
WIDTH = 100  # characters


def shorten(entry: KeyValue) -> str:
    """Write a value on one line; of a long array the first elements, of a long text the beginning."""
    value = plain(entry)
    if entry.type == GGUFValueType.ARRAY and entry.count > LONG_ARRAY:
        return _truncate(f"{entry.count:,}: {json.dumps(value[:FIRST], ensure_ascii=False)[:-1]}, ...")
    return _truncate(json.dumps(value, ensure_ascii=False))


def plain(entry: KeyValue) -> Any:
    """Return a value for JSON; a float32 has as few digits as tell it from others: 0.95, not 0.949999988079071."""
    return _shortest(entry.value) if entry.type == GGUFValueType.FLOAT32 else entry.value


def _shortest(value: float) -> float:
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.pack("<f", short) == struct.pack("<f", value):
                return short
        except OverflowError:  # rounded up beyond the largest float32
            continue
    return value


def _truncate(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}..."
