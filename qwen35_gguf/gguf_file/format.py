"""Constants of the GGUF format, versions 2 and 3, little-endian. Source: the GGUF specification (ggml/docs/gguf.md)."""

from __future__ import annotations

import struct

from gguf import GGUFValueType

MAGIC = b"GGUF"
VERSION = 3  # of the files that are made here
VERSIONS = (2, 3)
HEADER_BYTES = 24  # magic, version, tensor count, entry count
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 1 << 56  # of a tensor: NumPy holds shapes of up to 2^63 bytes, also of arrays without any
MAX_COUNT = 1 << 20  # tensors or entries: far above any model
MAX_NAME_BYTES = 65535  # of a key
MAX_TENSOR_NAME_BYTES = 255  # llama.cpp takes up to 63
MAX_VALUE_BYTES = 1 << 28  # of one metadata value: a vocabulary of 248,320 tokens takes about 4 MB

UINT32 = struct.Struct("<I")
UINT64 = struct.Struct("<Q")

# struct format of each scalar type.
SCALARS = {
    GGUFValueType.UINT8: "B", GGUFValueType.INT8: "b", GGUFValueType.UINT16: "H", GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I", GGUFValueType.INT32: "i", GGUFValueType.FLOAT32: "f", GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q", GGUFValueType.INT64: "q", GGUFValueType.FLOAT64: "d",
}  # fmt: skip


def encode_string(text: str) -> bytes:
    """Encode a string: its length in bytes, then UTF-8."""
    raw = text.encode("utf-8")
    return UINT64.pack(len(raw)) + raw


def padded(size: int, alignment: int = DEFAULT_ALIGNMENT) -> int:
    """Round a size up to a multiple of the alignment."""
    return size + -size % alignment
