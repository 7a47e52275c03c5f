"""Read GGUF files that may be damaged: the header, checked against the size of the file, and the tensor data, mapped.

Nothing that the file reports is believed: a count or a length is compared with the bytes that are left before anything
is read or allocated, and everything that is wrong becomes a `GgufError` of one line. Values stay encoded until they
are used, so that reading a header takes as long as finding its end.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from qwen35_gguf.errors import GgufError
from qwen35_gguf.gguf_file import header_change
from qwen35_gguf.gguf_file.format import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    HEADER_BYTES,
    MAGIC,
    MAX_COUNT,
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    MAX_NAME_BYTES,
    MAX_TENSOR_NAME_BYTES,
    MAX_VALUE_BYTES,
    SCALARS,
    UINT32,
    UINT64,
    VERSIONS,
    padded,
)
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.gguf_file.keyvalue import ARRAY, STRING, KeyValue
from qwen35_gguf.json_file import printable

Named = TypeVar("Named", KeyValue, TensorInfo)
SCALAR_BYTES = {type_: struct.calcsize(f"<{letter}") for type_, letter in SCALARS.items()}
LEAST_ENTRY, LEAST_TENSOR = 13, 24  # bytes of the shortest entry and tensor description


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file, and check that its tensors are inside the file.

    Raises:
        GgufError: the file is missing, not a GGUF, damaged, or truncated.

    """
    if header_change.pending(path):
        raise GgufError(f"{path}: a change of its metadata was interrupted; `qwen35 metadata {path.name}` finishes it")
    try:
        if path.is_fifo() or path.is_char_device():  # would be waited for, or have no end
            raise GgufError(f"{path}: is not a file; name a GGUF file made by `qwen35 convert`")
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise GgufError(f"{path}: is not a GGUF file; name one made by `qwen35 convert`")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(path, data, len(data)).header()
    except OSError as error:
        raise GgufError(f"{path}: {error.strerror or error}; name a GGUF file made by `qwen35 convert`") from None
    except struct.error:
        raise GgufError(f"{path}: the GGUF header is truncated; download it again") from None
    except ValueError as error:
        raise GgufError(f"{path}: the GGUF header is damaged ({error}); download it again") from None


def read_beginning(path: Path, data: bytes, size: int) -> GgufHeader | None:
    """Read the header of a file of which only the first bytes are available.

    Args:
        path: of the file.
        data: its first bytes.
        size: bytes of the whole file.

    Returns:
        The header; None if it is longer than `data`.

    Raises:
        GgufError: it is not a GGUF, damaged, or truncated.

    """
    if not data.startswith(MAGIC[: len(data)]):
        raise GgufError(f"{path}: is not a GGUF file; name one made by `qwen35 convert`")
    parser = _Parser(path, data, size)
    try:
        header = parser.header()
        return header if parser.at <= len(data) else None
    except (struct.error, ValueError) as error:
        # What exceeds the bytes is read as less than there is; if all of them are there, it is a fault.
        if len(data) < size and (isinstance(error, struct.error) or parser.at > len(data)):
            return None
        raise GgufError(f"{path}: the GGUF header is damaged ({error}); download it again") from None


def map_data(header: GgufHeader) -> npt.NDArray[np.uint8]:
    """Map a file into memory, read-only: (bytes of the file,).

    Raises:
        GgufError: the file cannot be read, or has another size than when its header was read.

    """
    try:
        mapped = np.memmap(header.path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise GgufError(f"{header.path}: cannot be read ({error})") from None
    if len(mapped) != header.size:
        raise GgufError(f"{header.path}: changed while it was read; wait until it is written, and try again")
    return mapped.view(np.ndarray)


def _check_size(header: GgufHeader) -> None:
    """Refuse a file that became shorter: to read beyond its end would end the process."""
    try:
        shorter = header.path.stat().st_size < header.size
    except OSError:
        return  # removed, and still mapped
    if shorter:
        raise GgufError(f"{header.path}: changed while it was read; wait until it is written, and try again")


def tensor_data(
    header: GgufHeader, tensor: TensorInfo, mapped: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Return the stored bytes of a tensor, mapped and read-only.

    Args:
        header: of the file that has the tensor.
        tensor: one of the header's.
        mapped: result of `map_data`, for reading many tensors of one file.

    Returns:
        (rows of all matrices, bytes of a row).

    Raises:
        GgufError: as `map_data`.

    """
    data = map_data(header) if mapped is None else mapped
    _check_size(header)
    start = header.data_start + tensor.offset
    return data[start : start + tensor.nbytes].reshape(math.prod(tensor.shape[:-1]), tensor.row_bytes)


class _Parser:
    """A position in a memory-mapped file, or in the first bytes of one of `size` bytes."""

    def __init__(self, path: Path, data: mmap.mmap | bytes, size: int) -> None:
        self.path, self.data, self.at, self.size = path, data, len(MAGIC), size

    def header(self) -> GgufHeader:
        if self.size < HEADER_BYTES:
            raise GgufError(f"{self.path}: the GGUF header is truncated; download it again")
        version = self.uint32()
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            raise ValueError("it is big-endian" if swapped in VERSIONS else f"version {version}")
        n_tensors, n_entries = self.uint64(), self.uint64()
        entries = self.several(self.entry, "a key", self.plausible(n_entries, LEAST_ENTRY, MAX_COUNT))
        alignment = next((entry.value for entry in entries if entry.key == ALIGNMENT_KEY), DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise ValueError(f"{ALIGNMENT_KEY} is {str(alignment)[:40]}")
        tensors = self.several(self.tensor, "a tensor", self.plausible(n_tensors, LEAST_TENSOR, MAX_COUNT))
        start = padded(self.at, alignment)
        end = max((tensor.offset + tensor.nbytes for tensor in tensors), default=0)
        if tensors and start + end > self.size:
            found = f"{self.size:,} bytes of {start + end:,}"
            raise GgufError(f"{self.path}: is truncated ({found}); download it again")
        return GgufHeader(self.path, entries, tensors, version, alignment, min(start, self.size), self.size)

    def several(self, read: Callable[[], Named], what: str, count: int) -> tuple[Named, ...]:
        """Read entries or tensors; a name that occurs twice is refused before all others are read."""
        found: dict[str, Named] = {}
        for _ in range(count):
            one = read()
            name = one.key if isinstance(one, KeyValue) else one.name
            if name in found:
                raise ValueError(f"{what} occurs twice")
            found[name] = one
        return tuple(found.values())

    def uint32(self) -> int:
        self.at += 4
        return int(UINT32.unpack_from(self.data, self.at - 4)[0])

    def uint64(self) -> int:
        self.at += 8
        return int(UINT64.unpack_from(self.data, self.at - 8)[0])

    def plausible(self, count: int, each: int, most: int) -> int:
        """Refuse a count above the limit, or of things of at least `each` bytes that the file has no room for."""
        if count > most or count * each > self.size - self.at:
            raise ValueError(f"a count of {count:,}")
        return count

    def name(self, longest: int = MAX_NAME_BYTES) -> str:
        length = self.plausible(self.uint64(), 1, longest)
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def entry(self) -> KeyValue:
        key, type_ = self.name(), self.value_type()
        start = self.at
        if type_ == ARRAY:
            element, count = self.value_type(), self.uint64()
            if element == ARRAY:
                raise ValueError(f"{printable(key)} is an array of arrays")
            each = SCALAR_BYTES.get(element, 8)  # a string has at least its length
            self.plausible(count, each, MAX_VALUE_BYTES // each)
            if element == STRING:
                self.skip_strings(count)
            else:
                self.at += count * each
        elif type_ == STRING:
            self.skip_strings(1)
        else:
            self.at += SCALAR_BYTES[type_]
        if self.at > self.size:
            raise ValueError(f"{printable(key)} exceeds the file")
        if self.at - start > MAX_VALUE_BYTES:
            raise ValueError(f"{printable(key)} has {self.at - start:,} bytes")
        return KeyValue(key, type_, self.data[start : self.at])

    def value_type(self) -> GGUFValueType:
        number = self.uint32()
        if number not in GGUFValueType._value2member_map_:
            raise ValueError(f"a value type {number}")
        return GGUFValueType(number)

    def skip_strings(self, count: int) -> None:
        data, at, end, unpack = self.data, self.at, self.size, UINT64.unpack_from
        for _ in range(count):
            at += 8 + unpack(data, at)[0]
            if at > end:
                raise ValueError("a string exceeds the file")
        self.at = at

    def tensor(self) -> TensorInfo:
        name, dimensions = self.name(MAX_TENSOR_NAME_BYTES), self.uint32()
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"{printable(name)} has {dimensions} dimensions")
        shape = tuple(reversed([self.uint64() for _ in range(dimensions)]))
        number, offset = self.uint32(), self.uint64()
        if number not in GGMLQuantizationType._value2member_map_:
            raise ValueError(f"{printable(name)} has the type {number}, which the installed gguf package does not know")
        type_ = GGMLQuantizationType(number)
        if shape and shape[-1] % GGML_QUANT_SIZES[type_][0]:
            raise ValueError(f"{printable(name)} has rows of {shape[-1]:,}, which are not whole blocks of {type_.name}")
        if 0 in shape and math.prod(filter(None, shape)) > MAX_ELEMENTS:  # else the file would be too short
            raise ValueError(f"{printable(name)} has no elements, and a dimension of {max(shape):,}")
        return TensorInfo(name, shape, type_, offset)
