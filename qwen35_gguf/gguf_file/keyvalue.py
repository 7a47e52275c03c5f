"""One GGUF metadata entry, as the tokenizer and the metadata modules hand it to the writer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gguf import GGUFValueType

Scalar = str | int | float | bool


class KeyValue(NamedTuple):
    """A key, its value and its GGUF type; ``element`` is the type of an array's elements."""

    key: str
    value: Scalar | Sequence[Scalar]
    type: GGUFValueType
    element: GGUFValueType | None = None
