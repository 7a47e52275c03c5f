"""Headers of GGUF files with changed metadata."""

from __future__ import annotations

import dataclasses

from gguf import GGUFValueType

from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.keyvalue import KeyValue, Scalar


def with_values(header: GgufHeader, values: dict[str, Scalar]) -> GgufHeader:
    """Return the header with values replaced; their GGUF types follow from their Python types."""
    entries = {entry.key: entry for entry in header.entries}
    for key, value in values.items():
        entries[key] = KeyValue.of(key, value, GGUFValueType.get_type(value))
    return dataclasses.replace(header, entries=tuple(entries.values()))
