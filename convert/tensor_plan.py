"""Resolve the tensor map against a checkpoint: which GGUF tensors there will be, and how each is made.

The invariants of the map are enforced here, each with an error that names both sides: every output is made exactly
once, every source tensor is used completely or is ignored for a stated reason, and every shape found is the shape that
config.json gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from qwen35_gguf.architecture import Architecture, VisionEncoder
from qwen35_gguf.convert import transforms
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.tensor_map import (
    IGNORED,
    BoundRule,
    Part,
    dimensions,
    text_rules,
    vision_dimensions,
    vision_rules,
)
from qwen35_gguf.convert.transforms import Operation
from qwen35_gguf.errors import CheckpointError

Array = np.ndarray[Any, np.dtype[Any]]


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


def plan_tensors(checkpoint: Checkpoint, *, mtp: bool = True, vision: bool = True) -> TensorPlan:
    """Resolve the table against a checkpoint.

    Raises:
        CheckpointError: a tensor is missing, unknown, used twice or in part, or config.json gives another shape.

    """
    where = str(checkpoint.directory / "config.json")
    claimed = Architecture.from_config(checkpoint.config, where)
    notes = list(checkpoint.notes)
    architecture = replace(
        claimed,
        mtp_blocks=_mtp_blocks(checkpoint, claimed.mtp_blocks, notes),
        tied=claimed.tied and "lm_head.weight" not in checkpoint.tensors,
    )
    operations = transforms.operation_table(architecture, norms_shifted=checkpoint.norms_shifted)
    text = list(_resolve(checkpoint, dimensions(architecture), operations, text_rules(architecture)))
    encoder = _vision_encoder(checkpoint, where)
    mmproj = list(_resolve(checkpoint, vision_dimensions(encoder), {}, vision_rules(encoder))) if encoder else []
    _check_coverage(checkpoint, [*text, *mmproj])
    if not mtp:
        text = [tensor for tensor in text if not tensor.sources[0].startswith("mtp.")]
        architecture = replace(architecture, mtp_blocks=0)
    return TensorPlan(architecture, tuple(text), tuple(mmproj) if vision else (), tuple(notes))


def _vision_encoder(checkpoint: Checkpoint, where: str) -> VisionEncoder | None:
    """Describe the vision encoder; None if the checkpoint has no tensor of one, whatever config.json claims."""
    if not any(name.startswith("visual.") for name in checkpoint.tensors):
        return None
    encoder = VisionEncoder.from_config(checkpoint.config, where)
    if encoder is None:
        raise CheckpointError("config.json has no vision_config, but there are visual.* tensors; restore it")
    return encoder


def _mtp_blocks(checkpoint: Checkpoint, claimed: int, notes: list[str]) -> int:
    """Count the MTP layers in the checkpoint; a different claim of config.json only earns a note."""
    layers = {int(m[1]) for name in checkpoint.tensors if (m := re.match(r"mtp\.layers\.(\d+)\.", name))}
    found = max(layers) + 1 if layers else 0
    if claimed and not found:
        notes.append(
            f"config.json says mtp_num_hidden_layers: {claimed}, but there are no mtp.* tensors: "
            "converting without multi-token prediction"
        )
    elif found != claimed:
        notes.append(f"config.json says mtp_num_hidden_layers: {claimed}, but {found} are there: converting with them")
    return found


def _resolve(
    checkpoint: Checkpoint,
    dims: Mapping[str, int],
    operations: Mapping[str, tuple[Operation, ...]],
    rules: Iterable[BoundRule],
) -> Iterator[OutputTensor]:
    missing = []
    for rule, gguf, source in rules:
        sources: tuple[str, ...] = (source,)
        shape, part, names = tuple(dims[n] for n in rule.shape), rule.part, rule.shape
        if rule.per_expert and source not in checkpoint.tensors:
            # gate_up_proj lives at {stack}.mlp.experts; so do the single experts.
            stack = source.rpartition(".")[0]
            projection = rule.per_expert[0].partition(".{e}.")[2]
            sources = tuple(f"{stack}.{e}.{projection}" for e in range(dims["experts"]))
            part, names = None, rule.per_expert[1]
            shape = tuple(dims[n] for n in names)
        absent = [name for name in sources if name not in checkpoint.tensors]
        if absent:
            missing.append((gguf, absent[0]))
            continue
        for name in sources:
            found = checkpoint.tensors[name].shape
            if found != shape:
                raise CheckpointError(
                    f"{checkpoint.tensors[name].name} has shape {list(found)}, but config.json promises {list(shape)} "
                    f"({', '.join(names)}) for {gguf}; the config belongs to another model"
                )
        if part:
            shape = part.shape(shape)
        bound = tuple(op for name in rule.operations for op in operations[name])
        for operation in bound:
            shape = operation.shape(shape)
        if rule.per_expert and len(shape) == 2:  # one tensor an expert: stacked in expert order
            shape = (len(sources), *shape)
        yield OutputTensor(gguf, sources, part, bound, shape, rule.fixed)
    if missing:
        gguf, name = missing[0]
        raise CheckpointError(
            f"{checkpoint.directory}: {len(missing)} tensors are missing, first {name} (for {gguf}); "
            "the checkpoint is incomplete or config.json belongs to another model"
        )


def _check_coverage(checkpoint: Checkpoint, outputs: list[OutputTensor]) -> None:
    """Every output once, every source entirely used: nothing is skipped in silence."""
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
    unknown = [
        checkpoint.tensors[name].name
        for name in checkpoint.tensors
        if name not in used and not any(pattern.search(name) for pattern, _ in IGNORED)
    ]
    if unknown:
        raise CheckpointError(
            f"{checkpoint.directory}: {len(unknown)} tensors are unknown to the {checkpoint.arch} map, first "
            f"{unknown[0]}; this is not a plain Qwen3.5 checkpoint"
        )
