"""What a GGUF says about itself: its metadata and the list of its tensors, without loading a weight.

Faster than `gguf.GGUFReader`, which makes an object for each of the 248,320 tokens: arrays of strings are skipped.
Source of the layout: the GGUF specification, version 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf.errors import Qwen35Error

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
# By the number of the value's type: uint8, int8, uint16, int16, uint32, int32, float32, bool, -, -, uint64 ...
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
MAX_ENTRIES = 1 << 20  # no file has as many; a damaged one may say so
MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `shape` in the order of the file (the fastest dimension first), `n_bytes` as it is stored."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    n_bytes: int


@dataclass(frozen=True, eq=False)
class GgufHeader:
    """Metadata (arrays of strings left out) and tensors of one file."""

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]

    @property
    def architecture(self) -> str:
        """`general.architecture`: qwen35, qwen35moe, clip (an mmproj), ..."""
        return str(self.metadata.get("general.architecture", "unknown"))

    def get(self, key: str, default: Any = None) -> Any:
        """Look up `key` of this architecture: "block_count" is `qwen35.block_count`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def require(self, key: str) -> Any:
        """Look up `key` of this architecture.

        Raises:
            Qwen35Error: it is not there.

        """
        value = self.get(key)
        if value is None:
            raise Qwen35Error(f"{self.path}: has no {self.architecture}.{key}; make it again with `qwen35 convert`")
        return value


class _Reader:
    """A position in a memory-mapped file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def number(self, letter: str) -> Any:
        (value,) = struct.unpack_from(f"<{letter}", self.data, self.at)
        self.at += struct.calcsize(f"<{letter}")
        return value

    def count(self) -> int:
        value = int(self.number("Q"))
        if value > MAX_ENTRIES:
            raise ValueError(f"a count of {value:,}")
        return value

    def string(self) -> str:
        return self.skip(self.number("Q")).decode("utf-8", errors="replace")

    def skip(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise ValueError("a text goes beyond the end of the file")
        self.at += length
        return self.data[self.at - length : self.at]

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array()
        return self.number(FORMATS[kind])

    def array(self) -> list[Any] | None:
        kind, length = self.number("I"), self.count()
        if kind == STRING:
            for _ in range(length):
                size = self.number("Q")
                if size > len(self.data) - self.at:
                    raise ValueError("a text goes beyond the end of the file")
                self.at += size
            return None
        if kind == ARRAY:
            raise ValueError("an array of arrays")
        numbers = struct.unpack_from(f"<{length}{FORMATS[kind]}", self.data, self.at)
        self.at += struct.calcsize(f"<{length}{FORMATS[kind]}")
        return list(numbers)


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF.

    Raises:
        Qwen35Error: the file is missing, not a GGUF, or shorter than its header says.

    """
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise Qwen35Error(f"{path}: not a GGUF file; make one with `qwen35 convert`")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, data)
    except OSError as error:
        raise Qwen35Error(f"{path}: {error.strerror or error}; name a GGUF file made by `qwen35 convert`") from None
    except struct.error:
        raise Qwen35Error(f"{path}: ends inside the GGUF header; convert or download it again") from None
    except (ValueError, KeyError) as error:
        raise Qwen35Error(f"{path}: the GGUF header is damaged ({error}); convert or download it again") from None


def _parse(path: Path, data: mmap.mmap) -> GgufHeader:
    reader = _Reader(data)
    reader.at = len(MAGIC)
    version = reader.number("I")
    if version not in (2, 3):
        raise ValueError(f"version {version}")
    n_tensors, n_keys = reader.count(), reader.count()
    metadata = {}
    for _ in range(n_keys):
        key = reader.string()
        metadata[key] = reader.value(reader.number("I"))
    tensors, end = [], 0
    for _ in range(n_tensors):
        name, dimensions = reader.string(), reader.number("I")
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = tuple(reader.number("Q") for _ in range(dimensions))
        kind = GGMLQuantizationType(reader.number("I"))
        offset = reader.number("Q")
        block, size = GGML_QUANT_SIZES[kind]
        n_bytes = math.prod(shape) // block * size
        tensors.append(TensorInfo(name, shape, kind, n_bytes))
        end = max(end, offset + n_bytes)
    if reader.at + end > len(data):
        message = f"{reader.at + end:,} bytes are announced and {len(data):,} there"
        raise Qwen35Error(f"{path}: is cut off ({message}); convert or download it again")
    return GgufHeader(path, metadata, tuple(tensors))
