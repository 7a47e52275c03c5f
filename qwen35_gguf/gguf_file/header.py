"""The header of a GGUF file: metadata entries and tensor descriptions, without the tensor data.

Axis order: every shape in this package is in NumPy order, (matrices, rows, columns), so that `shape[-1]` is the row
length. The file stores it the other way round, as llama.cpp's `ne`; only the reader and `TensorInfo.record` know that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf.errors import GgufError
from qwen35_gguf.gguf_file.format import MAGIC, UINT32, UINT64, VERSION, encode_string, padded
from qwen35_gguf.gguf_file.keyvalue import KeyValue


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name: such as `blk.0.ffn_up.weight`.
        shape: in NumPy order: `shape[-1]` is the row length.
        type: how the weights are stored.
        offset: bytes from the beginning of the data section.

    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int = 0

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        block, size = GGML_QUANT_SIZES[self.type]
        return (self.shape[-1] if self.shape else 1) // block * size

    @property
    def nbytes(self) -> int:
        """Bytes of the data, without padding."""
        return math.prod(self.shape[:-1]) * self.row_bytes

    @property
    def record(self) -> bytes:
        """The description as the file stores it."""
        dimensions = b"".join(UINT64.pack(n) for n in reversed(self.shape))
        place = UINT32.pack(self.type) + UINT64.pack(self.offset)
        return encode_string(self.name) + UINT32.pack(len(self.shape)) + dimensions + place


class Metadata(Mapping[str, Any]):
    """Decoded values by key; each is decoded when it is looked up."""

    def __init__(self, entries: Iterable[KeyValue]) -> None:
        self._entries = {entry.key: entry for entry in entries}

    def __getitem__(self, key: str) -> Any:
        return self._entries[key].value

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, key: str) -> KeyValue | None:
        """Return the entry of a key, or None."""
        return self._entries.get(key)


@dataclass(frozen=True, eq=False)
class GgufHeader:
    """Everything before the tensor data of one file.

    Attributes:
        path: the file.
        entries: metadata, in the order of the file.
        tensors: in the order of the file.
        version: of the format, 2 or 3.
        alignment: tensor data begin at multiples of it.
        data_start: bytes from the beginning of the file to the data section.
        size: bytes of the file.

    """

    path: Path
    entries: tuple[KeyValue, ...]
    tensors: tuple[TensorInfo, ...]
    version: int
    alignment: int
    data_start: int
    size: int

    @cached_property
    def metadata(self) -> Metadata:
        """Values by key, such as `general.name`."""
        return Metadata(self.entries)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, in NumPy order."""
        return {tensor.name: tensor.shape for tensor in self.tensors}

    @cached_property
    def _by_name(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.tensors}

    def find(self, key: str) -> KeyValue | None:
        """Return the entry of a key, or None."""
        return self.metadata.entry(key)

    def value(self, key: str, default: Any = None) -> Any:
        """Return the decoded value of a key, such as `general.name`, or the default."""
        return self.metadata.get(key, default)

    def tensor(self, name: str) -> TensorInfo | None:
        """Return the tensor of a name, or None."""
        return self._by_name.get(name)

    @property
    def architecture(self) -> str:
        """Value of `general.architecture`: qwen35, qwen35moe, clip (an mmproj), ..."""
        return str(self.value("general.architecture", "unknown"))

    def hparam(self, key: str, default: Any = None) -> Any:
        """Return a hyper-parameter: "block_count" is the key `qwen35.block_count` of a qwen35."""
        return self.value(f"{self.architecture}.{key}", default)

    def require_hparam(self, key: str) -> Any:
        """Return a hyper-parameter.

        Raises:
            GgufError: the file does not have it.

        """
        value = self.hparam(key)
        if value is None:
            raise GgufError(f"{self.path}: has no {self.architecture}.{key}; make it again with `qwen35 convert`")
        return value


def contiguous(tensors: Iterable[TensorInfo], alignment: int) -> tuple[TensorInfo, ...]:
    """Give tensors the offsets that llama.cpp requires: one after the other, each padded."""
    placed, at = [], 0
    for tensor in tensors:
        placed.append(replace(tensor, offset=at))
        at += padded(tensor.nbytes, alignment)
    return tuple(placed)


def encode_header(
    entries: Sequence[KeyValue], tensors: Sequence[TensorInfo], alignment: int, version: int = VERSION
) -> bytes:
    """Encode everything before the data section, padded to where that begins."""
    counts = MAGIC + UINT32.pack(version) + UINT64.pack(len(tensors)) + UINT64.pack(len(entries))
    header = b"".join([counts, *(entry.record for entry in entries), *(tensor.record for tensor in tensors)])
    return header + b"\0" * (-len(header) % alignment)
