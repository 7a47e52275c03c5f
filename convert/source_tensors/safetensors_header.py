"""The header of a safetensors file: which tensors it holds, of which type and shape, and where.

Every entry is checked before any weight is touched, so that a damaged download is one clear line and not a half-written
file.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qwen35_gguf.convert.source_tensors.names import canonical_name
from qwen35_gguf.convert.source_tensors.parts import ALL, Parts
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.json_file import COUNT, TEXT, JsonObject, list_of, parse_json, printable

FLOAT_DTYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
# Known to the format, but never plain weights: they belong to quantized ones.
PACKED_DTYPES: dict[str, np.dtype[Any]] = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
}
PIECE = 1 << 22  # bytes; what is read of each file before they are compared
DTYPES = FLOAT_DTYPES | PACKED_DTYPES
LFS_POINTER = b"version "  # how the text begins that stands for a file which was not fetched
LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a shard. `shape` is in the published layout, also when the file stores channels last."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int
    channels_last: bool = False


def read_header(path: Path, parts: Parts = ALL) -> list[StoredTensor]:
    """Parse one shard's header and check the entries of the wanted parts: offsets, overlaps, dtypes against shapes."""
    header, data, space = header_of(path)
    wanted = (name for name in header.values if parts.wants(canonical_name(name)))
    tensors = sorted((_parse_entry(path, name, header.section(name), data, space) for name in wanted), key=_by_start)
    for before, after in itertools.pairwise(tensors):
        if after.start < before.stop:
            raise CheckpointError(f"{path}: tensors {before.name} and {after.name} overlap; download it again")
    return tensors


def header_of(path: Path) -> tuple[JsonObject, int, int]:
    """Return the entries of a shard's header, where its data begin, and how many bytes they have."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if prefix == LFS_POINTER:
                raise CheckpointError(f"{path}: is a pointer of Git LFS, not the weights; run git lfs pull there")
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > size - 8:
                raise CheckpointError(
                    f"{path}: truncated: the header claims {length} bytes, the file has {size}; download it again"
                )
            if length > LARGEST_HEADER:
                raise CheckpointError(f"{path}: its header claims {length:,} bytes; download it again")
            header = parse_json(file.read(length), f"{path}: its safetensors header")
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    entries = {name: entry for name, entry in header.values.items() if name != "__metadata__"}
    return replace(header, values=entries), 8 + length, size - 8 - length


def same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Tell whether two tensors are stored with equal types, shapes and bytes."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        for start in range(one.start, one.stop, PIECE):
            size = min(PIECE, one.stop - start)
            if left.read(size) != right.read(size):
                return False
    return True


def _by_start(tensor: StoredTensor) -> tuple[int, int]:
    return tensor.start, tensor.stop


def _parse_entry(path: Path, name: str, entry: JsonObject, data: int, space: int) -> StoredTensor:
    dtype, shape = entry.need("dtype", TEXT), tuple(entry.need("shape", list_of(COUNT)))
    offsets = entry.need("data_offsets", list_of(COUNT))
    if len(offsets) != 2:
        raise entry.mistake("data_offsets", "where the data start and stop")
    start, stop = offsets
    if not start <= stop <= space:
        where = f"is stored at bytes {start}..{stop} of {space}"
        raise CheckpointError(f"{path}: truncated: tensor {printable(name)} {where}; download it again")
    if dtype not in DTYPES:
        raise CheckpointError(f"{path}: tensor {printable(name)} has the unknown dtype {printable(dtype)}")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if needed != stop - start:
        problem = f"needs {needed} bytes but has {stop - start}"
        raise CheckpointError(f"{path}: tensor {printable(name)} {list(shape)} {dtype} {problem}")
    return StoredTensor(name, dtype, shape, path, data + start, data + stop)
