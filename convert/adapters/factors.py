"""Low-rank factors of the tensors of a GGUF file: those of the adapter, after the operations of the tensor map.

An operation that reorders rows does so to B, one that reorders columns to A. What is not a low-rank update of a matrix
that llama.cpp applies adapters to is refused by name.

Source: llama.cpp src/llama-adapter.cpp (names and shapes), src/llama-adapter.h (`get_scale`), src/llama-graph.cpp
(`build_lora_mm`, `build_lora_mm_id`, `build_inp_embd`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen35_gguf.architecture import Architecture, VisionEncoder
from qwen35_gguf.convert.adapters.adapter_folder import Adapter
from qwen35_gguf.convert.adapters.fit import Base, fit
from qwen35_gguf.convert.adapters.updates import LowRank, Update, Whole
from qwen35_gguf.convert.source_tensors.tied import EMBEDDING
from qwen35_gguf.convert.tensor_map import (
    BoundRule,
    Shape,
    dimensions,
    text_rules,
    vision_dimensions,
    vision_rules,
)
from qwen35_gguf.convert.transforms import Operation, operation_table
from qwen35_gguf.errors import AdapterError

Array = np.ndarray[Any, np.dtype[Any]]
INSTEAD = "merge the adapter while converting instead (qwen35 convert BASE --adapter)"


@dataclass(frozen=True)
class Factors:
    """The update `alpha / rank * b @ a` of a GGUF tensor, in float32.

    Attributes:
        name: of the tensor.
        a: (rank, columns), or (experts, rank, columns); of the embedding (rows, rank), as llama.cpp looks it up.
        b: (rows, rank), or (experts, rows, rank); of the embedding (columns, rank).

    """

    name: str
    a: Array
    b: Array


def gguf_factors(
    adapter: Adapter, architecture: Architecture, encoder: VisionEncoder | None, where: str
) -> tuple[float, list[Factors]]:
    """Return alpha and the factors of all tensors, in the order of the tensor map.

    Args:
        adapter: a LoRA.
        architecture: of the base.
        encoder: its vision encoder, to name what belongs to that; None without one.
        where: the base, for messages.

    Raises:
        AdapterError: the adapter does not fit, or has what a GGUF LoRA cannot express.

    """
    if adapter.config.decomposed:
        raise AdapterError(
            f"{adapter.config.where}: use_dora is true: its norms are those of the merged weights, which a GGUF LoRA "
            f"does not have; {INSTEAD}"
        )
    rules = list(text_rules(architecture))
    dims = dimensions(architecture)
    shapes = {source: tuple(dims[name] for name in rule.shape) for rule, _, source in rules}
    if encoder is not None:
        sizes = vision_dimensions(encoder)
        shapes |= {s: tuple(sizes[name] for name in rule.shape) for rule, _, s in vision_rules(encoder)}
    fitted = fit(adapter, Base(where, shapes, architecture, architecture.tied))
    updates = {name: _low_rank(adapter, name, found) for name, found in fitted.updates.items()}
    if architecture.tied and updates.get(EMBEDDING):
        raise AdapterError(
            f"{adapter.folder}: {updates[EMBEDDING][0].key} is for the tied embedding, which is also the output "
            f"matrix: llama.cpp applies an adapter to one of the two only; {INSTEAD}"
        )
    operations = operation_table(architecture)
    made = [found for rule in rules for found in _of_rule(rule, shapes, updates.get(rule.source, []), operations)]
    if not made:
        raise AdapterError(f"{adapter.folder}: changes nothing; save the adapter again, with its weights gathered")
    alpha = _common_alpha([scaled for _, scaled in made])
    if not np.isfinite(alpha):
        raise AdapterError(f"{adapter.config.where}: lora_alpha is more than a GGUF LoRA can hold; {INSTEAD}")
    return alpha, [_arranged(one, scaled / alpha) for one, scaled in made]


def _low_rank(adapter: Adapter, name: str, updates: Sequence[Update]) -> list[LowRank]:
    """Return the updates of a tensor; refuse what is not low-rank, and tensors that llama.cpp leaves as they are.

    A copy of the base beside the factors counts for nothing.
    """
    found = []
    for update in updates:
        if isinstance(update, Whole) and ".base_layer." in update.key:
            continue
        if not isinstance(update, LowRank):
            raise AdapterError(
                f"{adapter.folder}: {update.key} is not a low-rank update (modules_to_save, a bias or trained tokens), "
                f"which a GGUF LoRA cannot hold; {INSTEAD}"
            )
        if name.startswith("visual."):
            raise AdapterError(
                f"{adapter.folder}: {update.key} is of the vision encoder, for which llama.cpp loads no adapters; "
                f"{INSTEAD}"
            )
        found.append(update)
    return found


def _of_rule(
    bound: BoundRule,
    shapes: dict[str, Shape],
    updates: Sequence[LowRank],
    operations: dict[str, tuple[Operation, ...]],
) -> Iterator[tuple[Factors, float]]:
    """Yield the factors of a GGUF tensor, if it has some, and the alpha that they need."""
    rule, name, source = bound
    shape = shapes[source]
    rows = range(shape[-2]) if len(shape) > 1 else range(0)
    if rule.part is not None:
        size = len(rows) // rule.part.count
        rows = range(rule.part.index * size, (rule.part.index + 1) * size)
    used = [update for update in updates if _overlaps(update, rows)]
    if not used:
        return
    # One scale for all factors of a tensor: that of the first, to which the others' B are scaled.
    scale = next((update.scale for update in used if update.scale), 1.0)
    if len(shape) == 3:
        a, b = _stacked(used, shape, rows, scale)
    else:
        a = np.concatenate([update.a.astype(np.float32) for update in used])
        b = np.concatenate([np.float32(u.scale / scale) * u.b.astype(np.float32) for u in used], axis=1)
    for operation in (operation for named in rule.operations for operation in operations[named]):
        a, b = through(operation, a, b)
    yield Factors(name, a, b), scale * a.shape[-2]


def through(operation: Operation, a: Array, b: Array) -> tuple[Array, Array]:
    """Apply an operation to the factors: afterwards `b @ a` is what the operation makes of `b @ a` before.

    Raises:
        AdapterError: it is not one that reorders rows or columns.

    """
    if operation.axis == 0:
        return a, operation.apply(b)
    if operation.axis == 1:
        return operation.apply(a), b
    raise AdapterError(f"{operation.name}: does not pass through a low-rank update; {INSTEAD}")


def _overlaps(update: LowRank, rows: range) -> bool:
    return update.first_row < rows.stop and update.first_row + update.b.shape[-2] > rows.start


def _stacked(updates: Sequence[LowRank], shape: Shape, rows: range, scale: float) -> tuple[Array, Array]:
    """Return A (experts, rank, columns) and B (experts, rows, rank); an expert without an update has zeros."""
    count, _, columns = shape
    used = [sum(u.rank for u in updates if u.expert in (None, expert)) for expert in range(count)]
    a = np.zeros((count, max(used), columns), np.float32)
    b = np.zeros((count, len(rows), max(used)), np.float32)
    for expert in range(count):
        at = 0
        for update in updates:
            factors = update.factors(expert)
            if factors is None:
                continue
            end = at + update.rank
            first, last = max(rows.start, update.first_row), min(rows.stop, update.first_row + len(factors[1]))
            a[expert, at:end] = factors[0]
            b[expert, first - rows.start : last - rows.start, at:end] = (
                np.float32(update.scale / scale) * (factors[1][first - update.first_row : last - update.first_row])
            )
            at = end
    return a, b


def _common_alpha(wanted: Sequence[float]) -> float:
    """Return the alpha of the file: that of most tensors, whose factors then are those of the adapter to the bit.

    It is stored in 32 bits; llama.cpp takes 0 for none, and would apply the factors as they are.
    """
    alpha = Counter(wanted).most_common(1)[0][0]
    with np.errstate(over="ignore", under="ignore"):
        stored = float(np.float32(alpha))
    if stored == 0.0:
        return 1.0
    return alpha if np.isfinite(stored) else stored


def _arranged(factors: Factors, scale: float) -> Factors:
    """Scale B, and exchange the factors of the embedding: its rows are looked up in A."""
    b = factors.b if scale == 1 else np.float32(scale) * factors.b
    if factors.name == "token_embd.weight":
        return Factors(factors.name, b, np.ascontiguousarray(factors.a.T))
    return Factors(factors.name, factors.a, b)
