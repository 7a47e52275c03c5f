"""What is in a checkpoint: config.json, the safetensors headers, and memory-mapped weights.

Nothing here copies weights: `Checkpoint.read` returns views into the mapped shards.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_gguf.architecture import architecture_name, claims_tied, text_config, text_section
from qwen35_gguf.convert.config.check import without, without_mtp
from qwen35_gguf.convert.dequantize.assemble import assemble
from qwen35_gguf.convert.dequantize.methods import find_method
from qwen35_gguf.convert.dequantize.quantized_tensor import QuantizedTensor
from qwen35_gguf.convert.source_tensors import names, norms, tied
from qwen35_gguf.convert.source_tensors.names import canonical_name
from qwen35_gguf.convert.source_tensors.parts import ALL, VISION, Parts, part_of
from qwen35_gguf.convert.source_tensors.safetensors_header import (
    DTYPES,
    PACKED_DTYPES,
    StoredTensor,
    header_of,
    read_header,
    same_bytes,
)
from qwen35_gguf.convert.source_tensors.weight_files import check_index, find_weight_files
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.json_file import SIZE, JsonObject, read_json

Array = np.ndarray[Any, np.dtype[Any]]

COMPARED_ELEMENTS = 1 << 22


@dataclass
class Checkpoint:
    """A checked checkpoint: its parsed config and its tensors by canonical name, those of the wanted parts.

    `quantized` has those that are dequantized when they are read, by their names in the files.
    `changes` is what adapters do to tensors when they are read, `origin` what else than the files decides the weights.
    """

    directory: Path
    config: dict[str, Any]
    arch: str
    tensors: dict[str, StoredTensor]
    parts: Parts = ALL
    files: tuple[Path, ...] = ()
    tied: bool = False
    norms_shifted: bool = False
    mtp_norms_shifted: bool = False
    quantized: Mapping[str, QuantizedTensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    changes: Mapping[str, Callable[[Array], Array]] = field(default_factory=dict)
    origin: tuple[str, ...] = ()
    _maps: dict[Path, tuple[mmap.mmap, Array]] = field(default_factory=dict)

    @property
    def text_config(self) -> dict[str, Any]:
        """The text model's part of config.json, whether nested or flat."""
        return text_config(self.config)

    def read(self, name: str) -> Array:
        """Return the weights in the published layout: a view of the mapped file, or F32 for quantized ones."""
        stored = self.tensors[name]
        quantized = self.quantized.get(stored.name)
        if quantized is not None:
            array = quantized.read()
        else:
            array = self.view(stored)
            if stored.channels_last:
                array = np.moveaxis(array, -1, 1)
        change = self.changes.get(name)
        return array if change is None else change(array)

    def release(self, array: Array) -> None:
        """Give back the mapped pages that a contiguous view covers, so that resident memory stays bounded."""
        address = int(array.__array_interface__["data"][0])
        for mapping, base in list(self._maps.values()):  # a copy: other threads map shards meanwhile
            begin = address - int(base.__array_interface__["data"][0])
            if 0 <= begin < base.nbytes and hasattr(mapping, "madvise"):
                page = begin - begin % mmap.PAGESIZE
                mapping.madvise(mmap.MADV_DONTNEED, page, begin + array.nbytes - page)

    def release_source(self, name: str) -> None:
        """Give back all mapped pages of a tensor, after it was copied or written."""
        for stored in self.stored(name):
            self.release(self.raw(stored))

    def stored(self, name: str) -> tuple[StoredTensor, ...]:
        """List what the files hold of a tensor: itself, or the weights and companions of a quantized one."""
        tensor = self.tensors[name]
        quantized = self.quantized.get(tensor.name)
        return (tensor,) if quantized is None else quantized.stored

    def read_bytes(self, name: str) -> int:
        """Return how many bytes `read` returns."""
        tensor = self.tensors[name]
        return math.prod(tensor.shape) * 4 if tensor.name in self.quantized else tensor.stop - tensor.start

    def raw(self, stored: StoredTensor) -> Array:
        """Return the bytes of a tensor as the file has them: a view of the mapped file."""
        if stored.file not in self._maps:
            with stored.file.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[stored.file] = (mapping, np.frombuffer(mapping, np.uint8))
        if stored.stop > _size(stored.file):  # to read beyond its end would end the process
            raise CheckpointError(f"{stored.file}: became shorter while it was read; download it again")
        return self._maps[stored.file][1][stored.start : stored.stop]

    def equal(self, one: str, other: str) -> bool:
        """Tell whether two matrices hold equal weights. The first differing rows end the comparison."""
        a, b = self.tensors[one], self.tensors[other]
        if a.shape != b.shape:
            return False
        step = max(1, COMPARED_ELEMENTS // max(1, math.prod(a.shape[1:])))
        for start in range(0, a.shape[0] if a.shape else 0, step):
            rows = self._rows(a, start, start + step), self._rows(b, start, start + step)
            if not np.array_equal(rows[0].astype(np.float32), rows[1].astype(np.float32), equal_nan=True):
                return False
        self.release_source(one)
        self.release_source(other)
        return True

    def view(self, stored: StoredTensor) -> Array:
        """Return the numbers of a tensor as the file has them: a view of the mapped file."""
        shape = stored.shape
        if stored.channels_last:
            shape = (shape[0], *shape[2:], shape[1])
        return self.raw(stored).view(DTYPES[stored.dtype]).reshape(shape)

    def _rows(self, stored: StoredTensor, start: int, stop: int) -> Array:
        quantized = self.quantized.get(stored.name)
        if quantized is None:
            return self.view(stored)[start:stop]
        return quantized.rows(start, min(stop, stored.shape[0]))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # removed, and still mapped
        return sys.maxsize


def open_checkpoint(directory: Path, parts: Parts = ALL, ignored: Collection[str] = ()) -> Checkpoint:
    """Read and check config.json and the safetensors headers of the wanted parts.

    Shards that hold only other parts are not opened, and entries of other parts are not checked. Of config.json the
    `ignored` keys are left out.

    Raises:
        CheckpointError: not Qwen3.5, quantized in a way that is not read, damaged, or incomplete.

    """
    path = directory / "config.json"
    config, notes = without(read_json(path).values, ignored)
    arch = architecture_name(config, str(path))
    method = find_method(config, directory)
    wanted = parts.of_config(config)
    if not wanted.mtp:
        config = without_mtp(config)
    shards, weight_map, file_notes = find_weight_files(directory, config, wanted)
    found = [tensor for shard in shards for tensor in read_header(shard, wanted)]
    check_index(directory, weight_map, {tensor.name for tensor in found}, wanted)
    checkpoint = Checkpoint(directory, config, arch, _by_name(directory, found), wanted, tuple(shards))
    assembled = assemble(checkpoint.tensors, method, checkpoint.view)
    checkpoint.tensors, checkpoint.quantized = assembled.tensors, assembled.quantized
    checkpoint.notes += [*assembled.notes, *notes, *file_notes]
    checkpoint.notes += names.wrapper_notes(tensor.name for tensor in found)
    if parts.vision and not wanted.vision:
        checkpoint.notes += _left_over(config, shards, weight_map)
    _refuse_packed(checkpoint)
    _sniff_layout(checkpoint)
    claimed = claims_tied(config, str(path))
    checkpoint.tied, tied_notes = tied.settle(checkpoint.tensors, claimed=claimed, equal=checkpoint.equal)
    checkpoint.notes += tied_notes
    return checkpoint


def _by_name(directory: Path, found: Iterable[StoredTensor]) -> dict[str, StoredTensor]:
    """Key the tensors by canonical name.

    Raises:
        CheckpointError: two tensors have the same one.

    """
    tensors: dict[str, StoredTensor] = {}
    # Copies from before the training come first: the trained ones replace them.
    for tensor in sorted(found, key=lambda tensor: not names.take_apart(tensor.name).superseded):
        name = canonical_name(tensor.name)
        other = tensors.get(name)
        if other is not None and not names.take_apart(other.name).superseded:
            if other.name == tensor.name:
                if same_bytes(other, tensor):
                    continue
                raise CheckpointError(
                    f"{directory}: {tensor.name} is in {other.file.name} and in {tensor.file.name}, with different "
                    "values; remove one of them"
                )
            raise CheckpointError(
                f"{directory}: {other.name} ({other.file.name}) and {tensor.name} ({tensor.file.name}) "
                f"are the same tensor, {name}; remove one of them"
            )
        tensors[name] = tensor
    return tensors


def _left_over(config: dict[str, Any], shards: list[Path], weight_map: Mapping[str, str]) -> list[str]:
    """Describe the vision encoder's tensors that a text model does not use."""
    stored = list(weight_map) or [name for shard in shards for name in header_of(shard)[0].values]
    left = [name for name in stored if part_of(canonical_name(name)) == VISION]
    if not left:
        return []
    named = ", ".join(map(str, config.get("architectures") or [config.get("model_type")]))
    return [
        f"config.json is of a text model ({named}, no vision_config): {len(left)} tensors of a vision encoder are "
        f"left out, first {left[0]}"
    ]


def _refuse_packed(checkpoint: Checkpoint) -> None:
    quantized = checkpoint.quantized
    packed = [t for t in checkpoint.tensors.values() if t.dtype in PACKED_DTYPES and t.name not in quantized]
    if packed:
        first = packed[0]
        raise CheckpointError(
            f"{first.file}: {len(packed)} tensors hold packed integers ({first.name} is {first.dtype}), and "
            "config.json does not tell how they are quantized; restore its quantization_config, or convert the "
            "original BF16 checkpoint"
        )


def _sniff_layout(checkpoint: Checkpoint) -> None:
    """Recognize an MLX export by its channels-last convolutions, (C, K, 1) instead of (C, 1, K)."""
    where = str(checkpoint.directory / "config.json")
    kernel = text_section(checkpoint.config, where).get("linear_conv_kernel_dim", SIZE)
    moved = [n for n, t in checkpoint.tensors.items() if n.endswith("conv1d.weight") and t.shape[1:] == (kernel, 1)]
    for name in moved:
        t = checkpoint.tensors[name]
        checkpoint.tensors[name] = replace(t, shape=(t.shape[0], t.shape[2], t.shape[1]), channels_last=True)
    patch = checkpoint.tensors.get("visual.patch_embed.proj.weight")
    vision = JsonObject(checkpoint.config if patch else {}, where).section("vision_config")
    channels = vision.get("in_channels", SIZE, 3)
    if patch is not None and len(patch.shape) == 5 and patch.shape[1] != channels == patch.shape[-1]:
        shape = (patch.shape[0], patch.shape[-1], *patch.shape[1:-1])
        checkpoint.tensors["visual.patch_embed.proj.weight"] = replace(patch, shape=shape, channels_last=True)
    held = [
        (part_of(name), checkpoint.read(name))
        for name, stored in checkpoint.tensors.items()
        if norms.is_shifted_norm(name) and stored.dtype not in PACKED_DTYPES
    ]
    form = norms.sniff(held, len(moved))
    checkpoint.norms_shifted, checkpoint.mtp_norms_shifted = form.text_shifted, form.mtp_shifted
    checkpoint.notes += form.notes
