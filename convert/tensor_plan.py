"""Resolve the tensor map against a checkpoint: which GGUF tensors there will be, and how each is made.

The invariants of the map are enforced here, each with an error that names both sides: every output is made exactly
once, every source tensor is used completely or is ignored for a stated reason, and every shape found is the shape that
config.json gives.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from qwen35_gguf.architecture import Architecture, VisionEncoder
from qwen35_gguf.convert import transforms
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.config.check import without_mtp
from qwen35_gguf.convert.dequantize.quantized_tensor import QuantizedTensor
from qwen35_gguf.convert.source_tensors.misfit import Misfit
from qwen35_gguf.convert.source_tensors.parts import MTP, OPTION, PREFIX, TEXT, VISION, Parts, part_of
from qwen35_gguf.convert.source_tensors.safetensors_header import StoredTensor
from qwen35_gguf.convert.tensor_map import (
    IGNORED,
    BoundRule,
    Part,
    Rule,
    Shape,
    dimensions,
    text_rules,
    vision_dimensions,
    vision_rules,
)
from qwen35_gguf.convert.transforms import Operation
from qwen35_gguf.errors import CheckpointError

Array = np.ndarray[Any, np.dtype[Any]]

MTP_KEY = "mtp_num_hidden_layers"


@dataclass(frozen=True)
class OutputTensor:
    """A resolved rule: a GGUF tensor, the checkpoint tensors (several only for experts) and the way between them."""

    name: str
    sources: tuple[str, ...]
    part: Part | None
    operations: tuple[Operation, ...]
    shape: tuple[int, ...]
    fixed: GGMLQuantizationType | None

    def blocks(self, checkpoint: Checkpoint) -> Iterator[Array]:
        """Yield arrays whose rows, one after the other, are the tensor's rows: one array, or one an expert."""
        for source in self.sources:
            array = self.select(checkpoint.read(source))
            for operation in self.operations:
                array = operation.apply(array)
            yield array

    def matrices(self, checkpoint: Checkpoint) -> Iterator[tuple[int, Array]]:
        """Yield (number, rows) of matrices in order, the rows of one in several pieces where they are dequantized.

        A matrix for each leading index, so that slicing rows never copies a strided view of the mapped file.
        """
        if (quantized := self._streamed(checkpoint)) is not None:
            yield from quantized.pieces(*((self.part.index, self.part.count) if self.part else ()))
            return
        number = 0
        for block in self.blocks(checkpoint):
            for matrix in [block] if block.ndim <= 2 else list(block.reshape(-1, *block.shape[-2:])):
                yield number, matrix
                number += 1

    def _streamed(self, checkpoint: Checkpoint) -> QuantizedTensor | None:
        """Return the source if it is one quantized tensor whose rows stay in their order."""
        if len(self.sources) > 1 or self.operations or self.sources[0] in checkpoint.changes:
            return None
        quantized = checkpoint.quantized.get(checkpoint.tensors[self.sources[0]].name)
        rows_axis = len(quantized.shape) - 2 if quantized else 0
        return None if self.part and (self.part.axis != rows_axis or self.part.drop) else quantized

    def select(self, array: Array) -> Array:
        """Return the part of a source that this output takes."""
        return self.part.take(array) if self.part else array

    def invert(self, array: Array) -> Array:
        """Undo the operations: from the GGUF tensor back to the selected source."""
        for operation in reversed(self.operations):
            array = operation.invert(array)
        return array


@dataclass(frozen=True)
class TensorPlan:
    """All outputs of a conversion.

    Attributes:
        architecture: with the MTP blocks and the output matrix that the text tensors really have.
        text: the tensors of the text model.
        vision: those of the vision encoder.
        notes: what to tell the user, one line each.

    """

    architecture: Architecture
    text: tuple[OutputTensor, ...]
    vision: tuple[OutputTensor, ...]
    notes: tuple[str, ...]


def plan_tensors(checkpoint: Checkpoint, parts: Parts | None = None, *, pad_vision: bool = False) -> TensorPlan:
    """Resolve the table against a checkpoint.

    Args:
        checkpoint: the source.
        parts: what to convert, of what was read of the checkpoint; None for all of it.
        pad_vision: pad the feed-forward networks of the vision encoder to whole blocks of Q8_0.

    Raises:
        CheckpointError: a tensor is missing, unknown, used twice or in part, or config.json gives another shape.

    """
    where = str(checkpoint.directory / "config.json")
    wanted = checkpoint.parts & parts if parts else checkpoint.parts
    claimed = Architecture.from_config(checkpoint.config if wanted.mtp else without_mtp(checkpoint.config), where)
    held = {name: stored for name, stored in checkpoint.tensors.items() if wanted.wants(name)}
    notes = list(checkpoint.notes)
    architecture = replace(
        claimed,
        mtp_blocks=_mtp_blocks(held, claimed.mtp_blocks, notes) if wanted.mtp else 0,
        tied=checkpoint.tied,
    )
    encoder = _vision_encoder(checkpoint, held, where, notes) if wanted.vision else None
    resolved = Resolved()
    if wanted.text:
        dims, rules = dimensions(architecture), list(text_rules(architecture))
        for part, shifted in ((TEXT, checkpoint.norms_shifted), (MTP, checkpoint.mtp_norms_shifted)):
            operations = transforms.operation_table(architecture, norms_shifted=shifted)
            resolved.add(held, dims, operations, (rule for rule in rules if part_of(rule.source) == part))
    text = tuple(resolved.outputs)
    if encoder:
        width = encoder.intermediate_size
        padding = transforms.vision_operation_table(width, transforms.padded_width(width) if pad_vision else None)
        resolved.add(held, vision_dimensions(encoder), padding, vision_rules(encoder))
    _check(checkpoint, held, architecture, resolved)
    return TensorPlan(architecture, text, tuple(resolved.outputs[len(text) :]), tuple(notes))


def published_weights(checkpoint: Checkpoint) -> Iterator[tuple[str, Array]]:
    """Read every tensor by its published name and in its published layout, whatever way the checkpoint stores it.

    Experts are stacked, quantized weights are dequantized, and what an export did to the RMSNorm weights is undone.

    Yields:
        Canonical names (`layers.0...`, `mtp...`, `visual...`) and arrays, views of the mapped files where possible.

    Raises:
        CheckpointError: a tensor is missing, unknown, or has another shape than config.json gives.

    """
    plan = plan_tensors(checkpoint)
    where, architecture = str(checkpoint.directory / "config.json"), plan.architecture
    encoder = VisionEncoder.from_config(checkpoint.config, where) if plan.vision else None
    dims = dimensions(architecture) | (vision_dimensions(encoder) if encoder else {})
    rules = itertools.chain(text_rules(architecture) if plan.text else (), vision_rules(encoder) if encoder else ())
    for source, group in itertools.groupby(sorted(rules, key=_source), key=_source):
        parts = []
        for bound in group:
            names, _, part = _sources(bound.rule, source, checkpoint.tensors, dims)
            parts.append([checkpoint.read(name) for name in names])
            if part is not None or names == (source,):
                break  # the other parts are of the same tensor
        whole = [np.stack(arrays) if len(arrays) > 1 else arrays[0] for arrays in parts]
        array = np.concatenate(whole, axis=1) if len(whole) > 1 else whole[0]
        shifted = checkpoint.mtp_norms_shifted if part_of(source) == MTP else checkpoint.norms_shifted
        if shifted and bound.rule.operations == ("plus_one",):
            array = transforms.plus_one.invert(array.astype(np.float32))
        yield source, array


def _source(bound: BoundRule) -> str:
    return bound.source


def _vision_encoder(
    checkpoint: Checkpoint, held: Mapping[str, StoredTensor], where: str, notes: list[str]
) -> VisionEncoder | None:
    """Describe the vision encoder; None if the checkpoint has no tensor of one, whatever config.json claims."""
    first = next((stored.name for name, stored in held.items() if part_of(name) == VISION), "")
    if not first:
        if checkpoint.config.get("vision_config") is not None:
            notes.append(
                "config.json has a vision_config, but there are no tensors of a vision encoder (merges and text-only "
                "training lose them): converting without; the mmproj file of the base model fits if its vision "
                "encoder was not trained"
            )
        return None
    encoder = VisionEncoder.from_config(checkpoint.config, where)
    if encoder is None:
        raise CheckpointError(
            f"{where}: has no vision_config, but there are tensors of a vision encoder, first {first}; restore it, or "
            f"add {OPTION[VISION]}"
        )
    return encoder


def _mtp_blocks(held: Mapping[str, StoredTensor], claimed: int, notes: list[str]) -> int:
    """Count the MTP layers in the checkpoint; a different claim of config.json only earns a note."""
    layers = [int(m[1]) for name in held if (m := re.match(r"mtp\.layers\.(\d+)\.", name))]
    # Without layers the head is incomplete, which the missing tensors tell.
    found = max(layers) + 1 if layers else int(any(part_of(name) == MTP for name in held))
    if claimed and not found:
        notes.append(
            f"config.json says {MTP_KEY}: {claimed}, but there are no {PREFIX[MTP]}* tensors: "
            "converting without multi-token prediction"
        )
    elif found != claimed:
        notes.append(f"config.json says {MTP_KEY}: {claimed}, but {found} are there: converting with them")
    return found


@dataclass
class Resolved:
    """What became of rules: outputs, sources that were asked for, (GGUF name, source) of what is missing, misfits."""

    outputs: list[OutputTensor] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    missing: list[tuple[str, str]] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def add(
        self,
        held: Mapping[str, StoredTensor],
        dims: Mapping[str, int],
        operations: Mapping[str, tuple[Operation, ...]],
        rules: Iterable[BoundRule],
    ) -> None:
        """Resolve rules against the tensors of a checkpoint."""
        for rule, gguf, source in rules:
            sources, names, part = _sources(rule, source, held, dims)
            self.used.update(sources)
            absent = [name for name in sources if name not in held]
            if absent:
                # A layer of experts lacks all of them: the published name is the better one.
                self.missing.append((gguf, absent[0] if len(absent) < len(sources) else source))
                continue
            shape = tuple(dims[n] for n in names)
            wrong = next((name for name in sources if held[name].shape != shape), None)
            if wrong is not None:
                self.misshapen.append(_misshapen(held[wrong], wrong, shape, names, gguf))
                continue
            if part:
                shape = part.shape(shape)
            bound = tuple(op for name in rule.operations for op in operations[name])
            for operation in bound:
                shape = operation.shape(shape)
            if rule.per_expert and len(shape) == 2:  # one tensor an expert: stacked in expert order
                shape = (len(sources), *shape)
            self.outputs.append(OutputTensor(gguf, sources, part, bound, shape, rule.fixed))


def _sources(
    rule: Rule, source: str, held: Mapping[str, StoredTensor], dims: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...], Part | None]:
    """Find the tensors that a rule takes, the names of their dimensions, and the part that is taken of each.

    Experts are stored as published (gate and up projection in one stack), in a stack for each projection (MLX), or one
    by one.
    """
    if rule.per_expert is None or source in held:
        return (source,), rule.shape, rule.part
    stem, (single, names) = source.rpartition(".")[0], rule.per_expert
    projection = single.partition(".{e}.")[2]
    stack = f"{stem}.{projection.removesuffix('.weight')}"
    if stack in held:
        return (stack,), ("experts", *names), None
    return tuple(f"{stem}.{e}.{projection}" for e in range(dims["experts"])), names, None


def _misshapen(stored: StoredTensor, name: str, shape: Shape, names: tuple[str, ...], gguf: str) -> str:
    promised = f"{list(shape)} ({', '.join(names)}) for {gguf}"
    if 0 in stored.shape or (len(stored.shape) == 1 < len(shape)):
        reason = "it was saved without gathering its shards (DeepSpeed ZeRO-3, FSDP); save the whole state dictionary"
    elif stored.shape == shape[::-1] or stored.shape == (*shape[:-2], *shape[:-3:-1]):
        reason = "it is transposed; transpose it back"
    else:
        reason = "the config belongs to another model"
    option = f", or leave the part out with {OPTION[part_of(name)]}" if part_of(name) in OPTION else ""
    return f"{stored.name} has shape {list(stored.shape)}, but config.json promises {promised}; {reason}{option}"


def _check(
    checkpoint: Checkpoint, held: Mapping[str, StoredTensor], architecture: Architecture, resolved: Resolved
) -> None:
    """Raise CheckpointError if tensors and map do not fit; what is missing or unknown tells more than shapes."""
    ignored = [pattern for pattern, _ in IGNORED]
    unknown = [name for name in held if name not in resolved.used and not any(one.search(name) for one in ignored)]
    if resolved.missing or unknown:
        stored = {name: tensor.name for name, tensor in held.items()}
        misfit = Misfit(checkpoint.arch, architecture.layers, resolved.missing, unknown, stored)
        raise CheckpointError(f"{checkpoint.directory}: {misfit.describe()}")
    if resolved.misshapen:
        raise CheckpointError(f"{checkpoint.directory}: {resolved.misshapen[0]}")
    _check_coverage(resolved.outputs)


def _check_coverage(outputs: list[OutputTensor]) -> None:
    """Every output once, every used source entirely: nothing is skipped in silence."""
    made: dict[str, OutputTensor] = {}
    used: dict[str, list[Part | None]] = {}
    for output in outputs:
        if output.name in made:
            raise CheckpointError(
                f"{output.name} would be made twice, from {made[output.name].sources[0]} and {output.sources[0]}"
            )
        made[output.name] = output
        for source in output.sources:
            used.setdefault(source, []).append(output.part)
    for source, parts in used.items():
        complete = parts == [None] or (
            None not in parts and sorted(p.index for p in parts if p) == list(range(parts[0].count if parts[0] else 0))
        )
        if not complete:
            raise CheckpointError(f"{source} is not used exactly once by the tensor map: {parts}")


def count_parameters(tensors: Sequence[OutputTensor]) -> tuple[int, int, int, int]:
    """Count the weights as the gguf package does (GGUFWriter.get_total_parameter_count), which `size_label` takes.

    All, shared, those of one expert, and how many experts.
    """
    merged = [tensor.shape for tensor in tensors if "_exps." in tensor.name and len(tensor.shape) > 2]
    total = sum(math.prod(tensor.shape) for tensor in tensors)
    experts = sum(math.prod(shape) for shape in merged)
    count = sum(shape[0] for shape in merged) // max(1, len(merged))
    return total, total - experts, sum(math.prod(shape[1:]) for shape in merged), count
