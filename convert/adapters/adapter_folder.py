"""The folder or Hub repository of an adapter: its configuration and its tensors, memory-mapped.

A training run saves more than one adapter in a folder: the default one at its top, others in folders by name, states of
the training in `checkpoint-N`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_gguf.convert import hub
from qwen35_gguf.convert.adapters import adapter_config
from qwen35_gguf.convert.adapters.adapter_config import AdapterConfig, read_config
from qwen35_gguf.convert.adapters.adapter_keys import FOREIGN, Entry, parse
from qwen35_gguf.convert.source_tensors.safetensors_header import FLOAT_DTYPES, StoredTensor, read_header
from qwen35_gguf.errors import AdapterError, CheckpointError

Array = np.ndarray[Any, np.dtype[Any]]

WEIGHTS = "adapter_model.safetensors"
HUB_FILES = ("*.json", "README.md", WEIGHTS, f"*/{WEIGHTS}")
PICKLED = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
TO_SAFETENSORS = "load it once with PEFT and save it again: save_pretrained writes adapter_model.safetensors"
# Names of folders that tell nothing about what is in them.
NAMELESS = re.compile(r"checkpoint-\d+|default|adapter|adapters|lora|output|outputs|final|last|best|[0-9a-f]{40}", re.I)


@dataclass(frozen=True)
class Adapter:
    """A PEFT LoRA.

    Attributes:
        folder: where it is.
        repo: its id on the Hub; "" for a local folder.
        config: of its adapter_config.json.
        tensors: what it stores, by key.
        entries: the same keys, taken apart, without copies of the base from before the training.
        scale: by which its low-rank updates count in addition.
        notes: what to tell the user.

    """

    folder: Path
    repo: str
    config: AdapterConfig
    tensors: Mapping[str, StoredTensor]
    entries: tuple[Entry, ...]
    scale: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the repository or the folder; of the folder above, where that tells nothing."""
        if self.repo:
            return self.repo.rpartition("/")[2]
        folder = self.folder.resolve()
        named = (part for part in (folder.name, *(parent.name for parent in folder.parents)) if part)
        return next((part for part in named if not NAMELESS.fullmatch(part)), folder.name)

    def read(self, key: str) -> Array:
        """Return a tensor as it is stored: a view of the mapped file."""
        stored = self.tensors[key]
        dtype = FLOAT_DTYPES[stored.dtype]
        if stored.start == stored.stop:
            return np.empty(stored.shape, dtype)
        return self._data[stored.start : stored.stop].view(dtype).reshape(stored.shape)

    @cached_property
    def _data(self) -> Array:
        return np.memmap(self.folder / WEIGHTS, np.uint8, "r")

    @cached_property
    def sha256(self) -> str:
        """The checksum of its weights and configuration."""
        total = hashlib.sha256((self.folder / adapter_config.FILE).read_bytes())
        total.update(self._data.data)
        return total.hexdigest()


def open_adapters(
    adapters: Sequence[str | Path], scales: Sequence[float] = (), revision: str | None = None
) -> list[Adapter]:
    """Open adapters, each with its scale: none for 1, or one for each.

    Raises:
        AdapterError: as `open_adapter`; or there are not as many scales as adapters, or one is not finite.

    """
    if scales and len(scales) != len(adapters):
        raise AdapterError(
            f"--adapter-scale: {len(scales)} scales for {len(adapters)} adapters; give one for each, in their order"
        )
    for scale in scales:
        if not np.isfinite(scale):
            raise AdapterError(f"--adapter-scale: {scale} is not a finite number")
    return [
        open_adapter(adapter, scale, revision)
        for adapter, scale in zip(adapters, scales or [1.0] * len(adapters), strict=True)
    ]


def open_adapter(adapter: str | Path, scale: float = 1.0, revision: str | None = None) -> Adapter:
    """Find an adapter, downloading it if it is a Hub id, and check its configuration and its tensors' headers.

    Raises:
        AdapterError: it is missing or damaged, not a LoRA, or stored as a pickle.

    """
    given = Path(adapter).expanduser()
    if given.suffix == ".gguf" and given.is_file():
        raise AdapterError(f"{given}: is a GGUF file, which is loaded beside a model (--lora); give the PEFT folder")
    if given.is_file() and given.name in (WEIGHTS, adapter_config.FILE):
        given = given.parent
    try:
        directory, repo, _ = hub.resolve_files(str(given) if given.exists() else str(adapter), HUB_FILES, revision)
    except CheckpointError as error:
        raise AdapterError(f"adapter {error}") from None
    folder, notes = _folder_of(directory)
    config = read_config(folder)
    tensors = _tensors(folder)
    entries = []
    for key in tensors:
        entry = parse(key)
        if entry is None:
            continue
        if entry.role == FOREIGN:
            raise AdapterError(
                f"{folder / WEIGHTS}: {key} is not of a LoRA (lora_A, lora_B, lora_magnitude_vector, whole tensors); "
                f"{adapter_config.MERGE_WITH_PEFT}"
            )
        entries.append(entry)
    return Adapter(folder, repo or "", config, tensors, tuple(entries), float(scale), tuple(notes))


def _folder_of(directory: Path) -> tuple[Path, list[str]]:
    """Find the folder of the adapter in a directory, which may hold several by name."""
    inside = sorted(path.parent for path in directory.glob(f"*/{adapter_config.FILE}"))
    names = ", ".join(path.name for path in inside)
    if (directory / adapter_config.FILE).is_file():
        return directory, [f"{directory}: also holds the adapters {names}, which are not used"] if inside else []
    if len(inside) == 1:
        return inside[0], [f"{directory}: its adapter is the folder {names}"]
    if inside:
        raise AdapterError(f"{directory}: holds several adapters ({names}); give one of them: {inside[0]}")
    if (directory / WEIGHTS).is_file():
        raise AdapterError(f"{directory}: has {WEIGHTS}, but no {adapter_config.FILE}; copy it from the training")
    if (directory / "config.json").is_file():
        raise AdapterError(f"{directory}: is a whole model, not an adapter; convert it without --adapter")
    raise AdapterError(f"{directory}: no {adapter_config.FILE}; give the folder of a PEFT adapter")


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = next((name for name in PICKLED if (folder / name).is_file()), None)
        if pickled:
            raise AdapterError(f"{folder / pickled}: is a pickle, which can run code when it is read; {TO_SAFETENSORS}")
        raise AdapterError(f"{folder}: no {WEIGHTS}; download or copy it")
    try:
        tensors = {tensor.name: tensor for tensor in read_header(path)}
    except CheckpointError as error:
        raise AdapterError(str(error)) from None
    if not tensors:
        raise AdapterError(f"{path}: holds no tensors; save the adapter again, with its weights gathered")
    for tensor in tensors.values():
        if tensor.dtype not in FLOAT_DTYPES:
            raise AdapterError(f"{path}: {tensor.name} is {tensor.dtype}; must be F32, F16 or BF16")
        if 0 in tensor.shape or not tensor.shape:
            raise AdapterError(
                f"{path}: {tensor.name} has shape {list(tensor.shape)}: shards were not gathered when it was saved; "
                "save the adapter again"
            )
    return tensors
