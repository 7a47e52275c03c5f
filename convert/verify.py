"""`qwen35 verify`: compare a GGUF with the checkpoint it was made from, tensor by tensor.

The tensor map is walked backwards: each GGUF tensor is dequantized, its operations are inverted, and the result is
compared with the source weights. Unquantized permutations must agree to the bit, arithmetic ones to F32 rounding;
quantized types must stay within a relative root-mean-square error, far below what a misplaced head would cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from qwen35_gguf.architecture import VisionEncoder
from qwen35_gguf.convert import hub
from qwen35_gguf.convert.adapters.adapter_folder import open_adapters
from qwen35_gguf.convert.adapters.merging import merge_adapters
from qwen35_gguf.convert.checkpoint import Checkpoint, open_checkpoint
from qwen35_gguf.convert.source_tensors.parts import Parts
from qwen35_gguf.convert.tensor_plan import OutputTensor, plan_tensors
from qwen35_gguf.convert.transforms import padded_width
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data
from qwen35_gguf.quant import kernels, presets

Array = np.ndarray[Any, np.dtype[Any]]

UNKNOWN_FORMAT_ERROR = 1.0  # rms(error) / rms(weights) that a type outside of presets.FORMATS may have


@dataclass(frozen=True)
class Comparison:
    """One tensor's verdict. `error` is rms(difference) / rms(source)."""

    name: str
    type: str
    error: float
    limit: float
    exact: bool
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Tell whether the tensor equals its source, within the limit."""
        return not self.problem and (self.exact or self.error <= self.limit)


def verify(
    file: str | Path,
    against: str | Path,
    revision: str | None = None,
    *,
    adapters: Sequence[str | Path] = (),
    adapter_scales: Sequence[float] = (),
) -> Iterator[Comparison]:
    """Compare every tensor of a text or mmproj GGUF with its checkpoint, into which adapters may have been merged.

    Raises:
        AdapterError: an adapter does not fit the checkpoint.
        GgufError: the file is missing or damaged.
        CheckpointError: the file is not a GGUF of this checkpoint's architecture, or the checkpoint is damaged.

    """
    path = Path(file)
    header = read_header(path)
    mapped = map_data(header)
    arch, parts = header.architecture, parts_of(header)
    stored = {tensor.name: tensor for tensor in header.tensors}
    merged = open_adapters(adapters, adapter_scales)
    directory = hub.resolve(str(against), revision, parts).directory
    checkpoint = merge_adapters(open_checkpoint(directory, parts), merged)
    if arch not in (checkpoint.arch, "clip"):
        raise CheckpointError(
            f"{path}: is {arch}, but {directory} is {checkpoint.arch}; compare it with its own source"
        )
    plan = plan_tensors(checkpoint, pad_vision=_is_padded(header, checkpoint))
    outputs = plan.vision if arch == "clip" else plan.text
    for output in outputs:
        found = stored.pop(output.name, None)
        if found is None:
            yield Comparison(output.name, "-", float("nan"), 0.0, False, "is missing from the file")
        else:
            yield _compare(checkpoint, output, found, tensor_data(header, found, mapped))
    for name in stored:
        yield Comparison(name, "-", float("nan"), 0.0, False, "is in the file, but not in the checkpoint")


def parts_of(header: GgufHeader) -> Parts:
    """Tell which parts of a checkpoint a GGUF file holds; the others are not needed to compare it."""
    if header.architecture == "clip":
        return Parts(text=False, mtp=False)
    return Parts(mtp=any(".nextn." in tensor.name for tensor in header.tensors), vision=False)


def _is_padded(header: GgufHeader, checkpoint: Checkpoint) -> bool:
    """Tell whether the feed-forward networks of a vision encoder have zeros up to whole blocks of Q8_0."""
    if header.architecture != "clip":
        return False
    encoder = VisionEncoder.from_config(checkpoint.config, str(checkpoint.directory / "config.json"))
    width = header.value("clip.vision.feed_forward_length")
    return encoder is not None and width == padded_width(encoder.intermediate_size)


def _compare(checkpoint: Checkpoint, output: OutputTensor, found: TensorInfo, data: Array) -> Comparison:
    type_, shape = found.type, found.shape
    limit = presets.FORMATS[type_].error if type_ in presets.FORMATS else UNKNOWN_FORMAT_ERROR
    if shape != output.shape:
        problem = f"has shape {list(shape)}, expected {list(output.shape)}"
        return Comparison(output.name, type_.name, float("nan"), limit, False, problem)
    if not _padding_is_zero(output, data, type_):
        return Comparison(
            output.name, type_.name, float("nan"), limit, False, "is padded with values that are not zero"
        )
    if len(output.sources) > 1:
        blocks = np.split(data, len(output.sources))
        block_shape = shape[1:]
    else:
        blocks, block_shape = [data], shape

    difference = energy = 0.0
    exact = True
    for source, part in zip(output.sources, blocks, strict=True):
        original = output.select(checkpoint.read(source))
        for got, want in _slabs(output, original, part, type_, block_shape):
            delta = got.astype(np.float64) - want.astype(np.float64)
            difference += float(np.vdot(delta, delta))
            energy += float(np.vdot(want.astype(np.float64), want.astype(np.float64)))
            exact = exact and not delta.any()
        checkpoint.release_source(source)
    error = float(np.sqrt(difference / energy)) if energy else float(difference > 0)
    return Comparison(output.name, type_.name, error, limit, exact)


def _padding_is_zero(output: OutputTensor, data: Array, type_: GGMLQuantizationType) -> bool:
    paddings = [operation.padding for operation in output.operations if operation.padding is not None]
    if not paddings:
        return True
    whole = kernels.dequantize(data, type_, output.shape[-1]).reshape(output.shape)
    return not any(padding(whole).any() for padding in paddings)


def _slabs(
    output: OutputTensor, original: Array, data: Array, type_: GGMLQuantizationType, shape: tuple[int, ...]
) -> Iterator[tuple[Array, Array]]:
    """Yield (restored, original) pairs: by slabs of rows without operations, whole when rows or columns move."""
    if output.operations or original.ndim != 2:
        restored = kernels.dequantize(data, type_, shape[-1]).reshape(shape)
        yield output.invert(restored), original.astype(np.float32)
        return
    step = max(1, (1 << 22) // shape[-1])
    for start in range(0, shape[0], step):
        restored = kernels.dequantize(data[start : start + step], type_, shape[-1])
        yield restored, original[start : start + step].astype(np.float32)
