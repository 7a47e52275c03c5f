"""Damages of JSON files: every key with a value of every type."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]

# A value of each type, and of those numbers that are no number, no count, or too large for one.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "minus one": -1,
    "zero": 0,
    "a fraction": 1.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "a huge number": 10**30,
    "a large number": 10**9,
    "an empty text": "",
    "a text": "x\ny",
    "an empty list": [],
    "a list of null": [None],
    "a list of numbers": [1, 2],
    "a list of objects": [{}],
    "an empty object": {},
    "an object": {"a": {"b": 1}},
    "a deep list": DEEP,
}


def paths(value: Any, here: Path = ()) -> Iterator[Path]:
    """Yield the path of every entry; of long lists and of objects with many alike entries, those of three."""
    yield here
    if isinstance(value, dict):
        keys = list(value)
        alike = len(keys) > 12 and len({type(item) for item in value.values()}) == 1
        for key in (keys[0], keys[len(keys) // 2], keys[-1]) if alike else keys:
            yield from paths(value[key], (*here, key))
    elif isinstance(value, list):
        for number in sorted({0, len(value) // 2, len(value) - 1} if value else ()):
            yield from paths(value[number], (*here, number))


def replaced(value: Any, path: Path, new: Any) -> Any:
    """Return a copy whose entry at the path is another one; the whole for the empty path."""
    if not path:
        return new
    made = copy.copy(value)
    made[path[0]] = replaced(made[path[0]], path[1:], new)
    return made


def damaged_texts(whole: Any) -> Iterator[tuple[str, str]]:
    """Yield each damage of a JSON value: what it is, and the text of the damaged value."""
    for path in paths(whole):
        for name, value in VALUES.items():
            yield f"{path}: {name}", json.dumps(replaced(whole, path, value))
