"""The header of a safetensors file: which tensors it holds, of which type and shape, and where.

Every entry is checked before any weight is touched, so that a damaged download is one clear line and not a half-written
file.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qwen35_gguf.convert.source_tensors.names import canonical_name
from qwen35_gguf.convert.source_tensors.parts import ALL, Parts
from qwen35_gguf.errors import CheckpointError

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
DTYPES = FLOAT_DTYPES | PACKED_DTYPES


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
    scale: StoredTensor | None = None


def read_header(path: Path, parts: Parts = ALL) -> list[StoredTensor]:
    """Parse one shard's header and check the entries of the wanted parts: offsets, overlaps, dtypes against shapes."""
    header, data, space = header_of(path)
    wanted = ((name, entry) for name, entry in header.items() if parts.wants(canonical_name(name)))
    tensors = sorted((_parse_entry(path, name, entry, data, space) for name, entry in wanted), key=_by_start)
    for before, after in itertools.pairwise(tensors):
        if after.start < before.stop:
            raise CheckpointError(f"{path}: tensors {before.name} and {after.name} overlap; download it again")
    return tensors


def header_of(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the entries of a shard's header, where its data begin, and how many bytes they have."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > size - 8:
                raise CheckpointError(
                    f"{path}: truncated: the header claims {length} bytes, the file has {size}; download it again"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    except ValueError:
        raise CheckpointError(f"{path}: its safetensors header is not JSON; download it again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its safetensors header is not a JSON object; download it again")
    header.pop("__metadata__", None)
    return header, 8 + length, size - 8 - length


def _by_start(tensor: StoredTensor) -> tuple[int, int]:
    return tensor.start, tensor.stop


def _parse_entry(path: Path, name: str, entry: Any, data: int, space: int) -> StoredTensor:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        start, stop = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: tensor {name} has a malformed header entry; download it again") from None
    if not 0 <= start <= stop <= space or min(shape, default=0) < 0:
        raise CheckpointError(
            f"{path}: truncated: tensor {name} is stored at bytes {start}..{stop} of {space}; download it again"
        )
    if dtype not in DTYPES:
        raise CheckpointError(f"{path}: tensor {name} has the unknown dtype {dtype}")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if needed != stop - start:
        problem = f"needs {needed} bytes but has {stop - start}"
        raise CheckpointError(f"{path}: tensor {name} {list(shape)} {dtype} {problem}")
    return StoredTensor(name, dtype, shape, path, data + start, data + stop)
