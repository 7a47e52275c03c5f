"""Checkpoints as others save them: the tensors of a folder, read, changed and written again.

Written without the safetensors package, so that tests need neither it nor torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[str, Array]

TYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "I64": np.dtype(np.int64),
}
NAMES = {dtype: name for name, dtype in TYPES.items()}


def read(path: Path) -> Tensors:
    """Read all tensors of a safetensors file."""
    raw = path.read_bytes()
    data = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:data])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        array = np.frombuffer(raw[data + start : data + stop], TYPES[entry["dtype"]])
        found[name] = array.reshape(entry["shape"]).copy()
    return found


def write(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        stop = offset + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_shards(folder: Path, shards: Mapping[str, Mapping[str, Array]]) -> None:
    """Write several safetensors files and their index, and remove model.safetensors."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    for file, tensors in shards.items():
        write(folder / file, tensors)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def changed(source: Path, target: Path, change: Callable[[Tensors], Tensors | None]) -> Path:
    """Copy a checkpoint of one file with its tensors changed, in place or to those that are returned."""
    folder = Path(shutil.copytree(source, target))
    tensors = read(folder / "model.safetensors")
    write(folder / "model.safetensors", change(tensors) or tensors)
    return folder


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
