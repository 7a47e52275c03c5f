"""The container of a GGUF file: its metadata entries as they are stored, its tensors, and where their data lies.

Entries are kept as encoded bytes, so that what is not changed is written back as it was; a value is decoded only when
it is asked for. Source of the layout: the GGUF specification, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from qwen35_gguf.errors import GgufError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MAX_DIMENSIONS = 4
HEADER_BYTES = 24  # magic, version, and the counts of tensors and entries

STRING, ARRAY = GGUFValueType.STRING, GGUFValueType.ARRAY
FORMATS = {
    GGUFValueType.UINT8: "B", GGUFValueType.INT8: "b", GGUFValueType.UINT16: "H", GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I", GGUFValueType.INT32: "i", GGUFValueType.FLOAT32: "f", GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q", GGUFValueType.INT64: "q", GGUFValueType.FLOAT64: "d",
}  # fmt: skip
_COUNT = struct.Struct("<Q")


@dataclass(frozen=True)
class Entry:
    """One metadata entry; `value` is encoded, without key and type (an array's begins with element type and count)."""

    key: str
    type: GGUFValueType
    value: bytes

    @property
    def record(self) -> bytes:
        """The entry as the file has it."""
        return encode_string(self.key) + struct.pack("<I", self.type) + self.value

    @property
    def element(self) -> GGUFValueType | None:
        """The type of an array's elements."""
        return GGUFValueType(struct.unpack_from("<I", self.value)[0]) if self.type == ARRAY else None

    @property
    def count(self) -> int:
        """How many elements an array has; 1 for anything else."""
        return int(_COUNT.unpack_from(self.value, 4)[0]) if self.type == ARRAY else 1

    def decode(self) -> Any:
        """Return the value: a number, bool or str, or a list of them."""
        if self.type == STRING:
            return self.value[8:].decode("utf-8", errors="replace")
        if self.type != ARRAY:
            return struct.unpack(f"<{FORMATS[self.type]}", self.value)[0]
        element, count = self.element, self.count
        if element != STRING:
            return list(struct.unpack_from(f"<{count}{FORMATS[GGUFValueType(element or 0)]}", self.value, 12))
        found, at = [], 12
        for _ in range(count):
            (length,) = _COUNT.unpack_from(self.value, at)
            at += 8 + length
            found.append(self.value[at - length : at].decode("utf-8", errors="replace"))
        return found


@dataclass(frozen=True)
class Tensor:
    """One tensor. `shape` is in the file's order, the row length first; `offset` counts from the data section."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of its data, without padding."""
        block, size = GGML_QUANT_SIZES[self.type]
        return math.prod(self.shape) // block * size

    @property
    def record(self) -> bytes:
        """What the header says of it."""
        dimensions = struct.pack(f"<I{len(self.shape)}Q", len(self.shape), *self.shape)
        return encode_string(self.name) + dimensions + struct.pack("<IQ", self.type, self.offset)


@dataclass(frozen=True)
class Layout:
    """One file: `data_start` and `size` are in bytes from its beginning."""

    path: Path
    version: int
    entries: tuple[Entry, ...]
    tensors: tuple[Tensor, ...]
    alignment: int
    data_start: int
    size: int

    def find(self, key: str) -> Entry | None:
        """Look an entry up."""
        return next((entry for entry in self.entries if entry.key == key), None)

    def get(self, key: str, default: Any = None) -> Any:
        """Look a value up and decode it."""
        entry = self.find(key)
        return default if entry is None else entry.decode()


def encode_string(text: str) -> bytes:
    """Encode a string: its length in bytes, then UTF-8."""
    raw = text.encode("utf-8")
    return _COUNT.pack(len(raw)) + raw


def padded(size: int, alignment: int) -> int:
    """Round a size up."""
    return size + -size % alignment


def contiguous(tensors: Iterable[Tensor], alignment: int) -> tuple[Tensor, ...]:
    """Give tensors the offsets that llama.cpp wants: one after the other, each padded."""
    placed, at = [], 0
    for tensor in tensors:
        placed.append(replace(tensor, offset=at))
        at += padded(tensor.nbytes, alignment)
    return tuple(placed)


def encode_header(version: int, entries: Sequence[Entry], tensors: Sequence[Tensor], alignment: int) -> bytes:
    """Encode everything before the data section, padded to where it begins."""
    counts = MAGIC + struct.pack("<IQQ", version, len(tensors), len(entries))
    header = b"".join([counts, *(entry.record for entry in entries), *(tensor.record for tensor in tensors)])
    return header + b"\0" * (-len(header) % alignment)


def read_layout(path: Path) -> Layout:
    """Read the header of a GGUF file, and check that its tensors lie inside it.

    Raises:
        GgufError: the file is missing, not a GGUF, damaged, or cut off.

    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
            if magic != MAGIC:
                raise GgufError(f"{path}: is not a GGUF file; name one made by `qwen35 convert`")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(path, data).layout()
    except OSError as error:
        raise GgufError(f"{path}: {error.strerror or error}; name a GGUF file") from None
    except (struct.error, ValueError, KeyError) as error:
        raise GgufError(f"{path}: the GGUF header is damaged or cut off ({error}); download it again") from None


class _Parser:
    """A position in a memory-mapped file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, len(MAGIC)

    def layout(self) -> Layout:
        version = self.number("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            raise ValueError("it is big-endian" if swapped in VERSIONS else f"version {version}")
        n_tensors, n_entries = self.number("Q"), self.number("Q")
        entries = tuple(self.entry() for _ in range(self.plausible(n_entries, 13)))
        names = {entry.key for entry in entries}
        if len(names) != len(entries):
            raise ValueError("a key occurs twice")
        alignment = next((entry.decode() for entry in entries if entry.key == ALIGNMENT_KEY), DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise ValueError(f"{ALIGNMENT_KEY} is {alignment}")
        tensors = tuple(self.tensor() for _ in range(self.plausible(n_tensors, 24)))
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise ValueError("a tensor occurs twice")
        start, size = padded(self.at, alignment), len(self.data)
        end = max((tensor.offset + tensor.nbytes for tensor in tensors), default=0)
        if tensors and start + end > size:
            message = f"{start + end:,} bytes are announced and {size:,} there"
            raise GgufError(f"{self.path}: is cut off ({message}); download it again")
        return Layout(self.path, version, entries, tensors, alignment, min(start, size), size)

    def number(self, letter: str) -> int:
        (value,) = struct.unpack_from(f"<{letter}", self.data, self.at)
        self.at += struct.calcsize(letter)
        return int(value)

    def plausible(self, count: int, least: int) -> int:
        """Refuse a count of things of at least `least` bytes that the file has no room for."""
        if count * least > len(self.data) - self.at:
            raise ValueError(f"a count of {count:,}")
        return count

    def string(self) -> str:
        length = self.plausible(self.number("Q"), 1)
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def entry(self) -> Entry:
        key, kind = self.string(), GGUFValueType(self.number("I"))
        start = self.at
        if kind == STRING:
            self.skip_strings(1)
        elif kind == ARRAY:
            element, count = GGUFValueType(self.number("I")), self.number("Q")
            if element == STRING:
                self.skip_strings(self.plausible(count, 8))
            else:
                self.at += self.plausible(count, struct.calcsize(FORMATS[element])) * struct.calcsize(FORMATS[element])
        else:
            self.at += struct.calcsize(FORMATS[kind])
        if self.at > len(self.data):
            raise ValueError(f"{key} goes beyond the end")
        return Entry(key, kind, self.data[start : self.at])

    def skip_strings(self, count: int) -> None:
        data, at, end = self.data, self.at, len(self.data)
        for _ in range(count):
            at += 8 + _COUNT.unpack_from(data, at)[0]
            if at > end:
                raise ValueError("a text goes beyond the end")
        self.at = at

    def tensor(self) -> Tensor:
        name, dimensions = self.string(), self.number("I")
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        kind, offset = self.number("I"), self.number("Q")
        if kind not in GGMLQuantizationType._value2member_map_:
            raise ValueError(f"{name} has the type {kind}, which the installed gguf package does not know")
        type_ = GGMLQuantizationType(kind)
        if shape and shape[0] % GGML_QUANT_SIZES[type_][0]:
            raise ValueError(f"{name} has rows of {shape[0]}, which are not whole blocks of {type_.name}")
        return Tensor(name, shape, type_, offset)
