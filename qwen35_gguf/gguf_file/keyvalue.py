"""One metadata entry of a GGUF file, kept as encoded bytes.

What is not changed is written back as it was, and a value is decoded only when it is used: a vocabulary of 248,320
tokens costs nothing when only a scalar is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFValueType

from qwen35_gguf.gguf_file.format import SCALARS, UINT32, UINT64, encode_string

STRING, ARRAY = GGUFValueType.STRING, GGUFValueType.ARRAY
_ARRAY_HEAD = 12  # bytes of an array's element type and count

Scalar = str | int | float | bool


@dataclass(frozen=True)
class KeyValue:
    """A key, the type of its value, and the value encoded.

    Attributes:
        key: name of the entry, such as `qwen35.block_count`.
        type: GGUF type of the value.
        encoded: the value as the file stores it, without key and type. An array begins with the type of its elements
            and their count.

    """

    key: str
    type: GGUFValueType
    encoded: bytes

    @classmethod
    def of(
        cls, key: str, value: Scalar | Sequence[Scalar], type_: GGUFValueType, element: GGUFValueType | None = None
    ) -> KeyValue:
        """Encode a value.

        Args:
            key: name of the entry.
            value: a number, bool or string; a sequence of them for an array.
            type_: GGUF type of the value.
            element: GGUF type of the elements of an array.

        Raises:
            ValueError, struct.error, OverflowError: the value does not fit its type.

        """
        if type_ != ARRAY:
            return cls(key, type_, _encode_scalar(value, type_))
        if element is None or element == ARRAY or isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{key}: an array needs a sequence and a scalar element type")
        head = UINT32.pack(element) + UINT64.pack(len(value))
        if element == STRING:
            return cls(key, type_, head + b"".join([_encode_scalar(item, element) for item in value]))
        return cls(key, type_, head + struct.pack(f"<{len(value)}{SCALARS[element]}", *value))

    @property
    def record(self) -> bytes:
        """The entry as the file stores it."""
        return encode_string(self.key) + UINT32.pack(self.type) + self.encoded

    @property
    def element(self) -> GGUFValueType | None:
        """Type of the elements of an array; None for a scalar."""
        return GGUFValueType(UINT32.unpack_from(self.encoded)[0]) if self.type == ARRAY else None

    @property
    def count(self) -> int:
        """Elements of an array; 1 for a scalar."""
        return int(UINT64.unpack_from(self.encoded, 4)[0]) if self.type == ARRAY else 1

    @property
    def value(self) -> Any:
        """The value, decoded anew at each use: a number, bool or str, or a list of them.

        Bytes that are not valid UTF-8 become U+FFFD.
        """
        if self.type == STRING:
            return self.encoded[8:].decode("utf-8", errors="replace")
        element, count = self.element, self.count
        if element is None:
            return struct.unpack(f"<{SCALARS[self.type]}", self.encoded)[0]
        if element != STRING:
            return list(struct.unpack_from(f"<{count}{SCALARS[element]}", self.encoded, _ARRAY_HEAD))
        encoded, at, found = self.encoded, _ARRAY_HEAD, []
        for _ in range(count):
            (length,) = UINT64.unpack_from(encoded, at)
            at += 8 + length
            found.append(encoded[at - length : at].decode("utf-8", errors="replace"))
        return found


def _encode_scalar(value: Any, type_: GGUFValueType) -> bytes:
    if type_ != STRING:
        return struct.pack(f"<{SCALARS[type_]}", value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return encode_string(value)
