"""Which tensors of a base an adapter changes, and how: every key has a place, or is refused by name.

Names and shapes of the base are canonical, those of the tensor map or of a checkpoint. Experts may be stored stacked or
singly on either side.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qwen35_gguf.architecture import Architecture
from qwen35_gguf.convert.adapters.adapter_folder import Adapter
from qwen35_gguf.convert.adapters.adapter_keys import MAGNITUDE, ROWS, SHIFT, WHOLE, A, B, Entry, Role
from qwen35_gguf.convert.adapters.updates import LowRank, Rows, Shift, Update, Whole
from qwen35_gguf.convert.source_tensors.tied import EMBEDDING, OUTPUT
from qwen35_gguf.convert.tensor_map import Part, text_rules
from qwen35_gguf.errors import AdapterError

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
ONE_EXPERT = re.compile(r"(.+)\.(\d+)\.(\w+)")
CHECKED = 1 << 22  # elements checked for NaN in one step


@dataclass(frozen=True)
class Stack:
    """Experts' tensors of a layer: the stacked name, and what one expert's tensor is called there.

    `part` is the slice of the stacked rows that a projection takes.
    """

    source: str
    projections: tuple[tuple[str, Part | None], ...]


@dataclass
class Base:
    """What an adapter is fitted to.

    Attributes:
        where: the base, for messages.
        shapes: of its tensors, by canonical name.
        architecture: of the text model.
        tied: the embedding is also the output matrix.
        wants: whether a tensor is wanted: a part may be left out.

    """

    where: str
    shapes: dict[str, Shape]
    architecture: Architecture
    tied: bool
    wants: Callable[[str], bool] = field(default=lambda _name: True)

    def stacks(self, module: str) -> list[Stack]:
        """List the stacked tensors of a module `layers.N.mlp.experts`."""
        found: dict[str, list[tuple[str, Part | None]]] = defaultdict(list)
        for rule, _, source in text_rules(self.architecture):
            if rule.per_expert and source.rpartition(".")[0] == module:
                projection = rule.per_expert[0].partition(".{e}.")[2].removesuffix(".weight")
                found[source].append((projection, rule.part))
        return [Stack(source, tuple(parts)) for source, parts in found.items()]

    def stacked_shape(self, stack: Stack) -> Shape:
        """Return the shape of a stacked tensor, also where the experts are stored singly."""
        if stack.source in self.shapes:
            return self.shapes[stack.source]
        module = stack.source.rpartition(".")[0]
        single = self.shapes.get(f"{module}.0.{stack.projections[0][0]}.weight", (0, 0))
        count = self.architecture.experts.count if self.architecture.experts else 0
        return count, single[0] * len(stack.projections), single[1]


@dataclass
class Fitted:
    """The updates of a base by one adapter.

    Attributes:
        updates: by canonical name of the tensor.
        unties: the output matrix is no longer the embedding.
        notes: what to tell the user.

    """

    updates: dict[str, list[Update]]
    unties: bool
    notes: list[str]


def fit(adapter: Adapter, base: Base) -> Fitted:
    """Find the place of every key of an adapter.

    Raises:
        AdapterError: a key is of another method or unknown, the base has no such module, A or B is missing, a shape or
            rank does not fit, or a value is not finite.

    """
    fitted = Fitted(defaultdict(list), unties=False, notes=list(adapter.notes))
    groups: dict[tuple[str, int], dict[Role, Entry]] = {}
    whole: dict[str, Entry] = {}
    left_out = []
    for entry in adapter.entries:
        if not base.wants(entry.module):
            left_out.append(entry.key)
        elif entry.role == WHOLE:
            whole[entry.module] = entry
        elif groups.setdefault((entry.module, entry.depth), {}).setdefault(entry.role, entry) is not entry:
            other = groups[entry.module, entry.depth][entry.role]
            raise AdapterError(f"{adapter.folder}: {other.key} and {entry.key} are for the same module; remove one")
    if left_out:
        fitted.notes.append(f"{adapter.name}: {len(left_out)} tensors are for parts that are left out: {left_out[0]}")
    saved = {name: entry for name, entry in whole.items() if ".base_layer." not in entry.key}
    fitted.unties = base.tied and bool({EMBEDDING, OUTPUT} & saved.keys())
    for name, entry in whole.items():
        _fit_whole(adapter, base, fitted, name, entry)
    # PEFT merges the output matrix last, which counts where it is the embedding.
    for (module, _), group in sorted(groups.items(), key=lambda item: f"{item[0][0]}.weight" == OUTPUT):
        _check_pair(adapter, module, group)
        if ROWS in group:
            _fit_rows(adapter, base, fitted, group[ROWS])
        elif A in group:
            _fit_pair(adapter, base, fitted, module, group)
    _note_scale(adapter, fitted)
    return fitted


def _fit_whole(adapter: Adapter, base: Base, fitted: Fitted, name: str, entry: Entry) -> None:
    values = _finite(adapter, entry.key)
    target = name
    if name == OUTPUT and base.tied:
        target = OUTPUT if fitted.unties else EMBEDDING
    shape = base.shapes.get(EMBEDDING if target == OUTPUT and base.tied else target)
    if shape is None:
        stack = next((s for s in base.stacks(name.rpartition(".")[0]) if s.source == name), None)
        if stack is None or base.stacked_shape(stack) != values.shape:
            raise _unknown(adapter, base, entry.key, name)
        for expert, matrix in enumerate(values):
            for projection, part in stack.projections:
                single = f"{name.rpartition('.')[0]}.{expert}.{projection}.weight"
                fitted.updates[single].append(Whole(entry.key, _rows_of(matrix, part)))
        return
    if values.shape != shape:
        resized = name in (EMBEDDING, OUTPUT) and values.ndim == 2 and values.shape[1] == shape[1]
        raise AdapterError(
            f"{adapter.folder}: {entry.key} has shape {list(values.shape)}, but the base's is {list(shape)}; "
            + (
                f"the vocabulary was resized to {values.shape[0]:,} tokens for the training: resize the base, "
                "merge with PEFT (merge_and_unload), save the model with its tokenizer, and convert that"
                if resized
                else "the adapter belongs to another model"
            )
        )
    fitted.updates[target].append(Whole(entry.key, values))


def _fit_rows(adapter: Adapter, base: Base, fitted: Fitted, entry: Entry) -> None:
    values = _finite(adapter, entry.key)
    leaf = entry.path.rpartition(".")[2]
    tokens = adapter.config.tokens
    rows = next((rows for name, rows in tokens.items() if name and (entry.path == name or leaf == name)), None)
    if rows is None:
        rows = next((r for name, r in tokens.items() if name and entry.path.endswith(f".{name}")), tokens.get(""))
    target = _matrix_of(base, fitted, entry.module)
    shape = base.shapes.get(EMBEDDING if target == OUTPUT and base.tied else target)
    if shape is None:
        raise _unknown(adapter, base, entry.key, entry.module)
    if rows is None or values.shape != (len(rows), shape[1]):
        raise AdapterError(
            f"{adapter.folder}: {entry.key} has shape {list(values.shape)}, but trainable_token_indices names "
            f"{len(rows or ())} tokens of {shape[1]} values; the files belong to different adapters"
        )
    if max(rows, default=0) >= shape[0]:
        raise AdapterError(
            f"{adapter.folder}: {entry.key} has the token {max(rows)}, but the base has {shape[0]:,}; "
            "the adapter belongs to another model"
        )
    fitted.updates[target].append(Rows(entry.key, values, rows))


def _fit_pair(adapter: Adapter, base: Base, fitted: Fitted, module: str, group: Mapping[Role, Entry]) -> None:
    a, b = _finite(adapter, group[A].key), _finite(adapter, group[B].key)
    if group[A].embedding:
        a, b = b.T, a.T
    magnitude = _finite(adapter, group[MAGNITUDE].key) if MAGNITUDE in group else None
    name = _matrix_of(base, fitted, module)
    shape = base.shapes.get(EMBEDDING if name == OUTPUT and base.tied else name)
    key = group[A].key
    if shape is not None and len(shape) == 3:
        raise AdapterError(
            f"{adapter.folder}: {key} is of a depthwise convolution, into which PEFT cannot merge either; "
            "train it as a whole (modules_to_save), or leave it out"
        )
    if shape is not None:
        update = _of_matrix(adapter, group, a, b, magnitude, shape)
        fitted.updates[name].append(update)
        if base.tied and not fitted.unties and name == EMBEDDING:
            fitted.notes.append(
                f"{adapter.name}: {key} is merged into the tied matrix, which is embedding and output, as PEFT's "
                "merge_and_unload does; for one of the two alone, untie the base before"
            )
        if SHIFT in group:
            _fit_shift(adapter, base, fitted, module, group[SHIFT])
    else:
        placed = list(_of_experts(adapter, base, module, group, a, b))
        if not placed:
            raise _unknown(adapter, base, key, f"{module}.weight")
        for target, update in placed:
            fitted.updates[target].append(update)


def _fit_shift(adapter: Adapter, base: Base, fitted: Fitted, module: str, entry: Entry) -> None:
    values, name = _finite(adapter, entry.key), f"{module}.bias"
    if base.shapes.get(name) != values.shape:
        raise AdapterError(f"{adapter.folder}: {entry.key} is a bias, but the base's {module} has none of its shape")
    fitted.updates[name].append(Shift(entry.key, values, adapter.config.scale_of(entry.path) * adapter.scale))


def _of_matrix(
    adapter: Adapter, group: Mapping[Role, Entry], a: Array, b: Array, magnitude: Array | None, shape: Shape
) -> LowRank:
    """Make the update of a matrix, or of a convolution: its kernel is flattened."""
    first = group[A]
    rank = adapter.config.rank_of(first.path)
    if b.ndim > 2 and set(b.shape[2:]) == {1}:
        b = b.reshape(b.shape[:2])
    flat = a.reshape(a.shape[0], -1)
    wanted = (rank, *shape[1:])
    columns = int(np.prod(shape[1:]))
    if a.shape != wanted or b.shape != (shape[0], rank) or flat.shape[1] != columns:
        found = f"A {list(adapter.tensors[first.key].shape)}, B {list(adapter.tensors[group[B].key].shape)}"
        if first.embedding:
            must = f"A {[rank, shape[0]]}, B {[columns, rank]}"
        else:
            must = f"A {list(wanted)}, B {[shape[0], rank]}"
        raise AdapterError(
            f"{adapter.folder}: {first.key} does not fit: it has {found}, rank {rank} and the base's "
            f"{list(shape)} need {must}; the adapter belongs to another model, or its configuration to another adapter"
        )
    of_columns = first.embedding
    if magnitude is not None and magnitude.size != (columns if of_columns else shape[0]):
        raise AdapterError(
            f"{adapter.folder}: {group[MAGNITUDE].key} has {magnitude.size} values, but the base's matrix "
            f"{list(shape)}; the adapter belongs to another model"
        )
    return LowRank(
        first.key,
        flat,
        b,
        adapter.config.scale_of(first.path) * adapter.scale,
        None if magnitude is None else magnitude.reshape(-1),
        of_columns,
        rounded=first.embedding and magnitude is None,
    )


def _of_experts(
    adapter: Adapter, base: Base, module: str, group: Mapping[Role, Entry], a: Array, b: Array
) -> Iterator[tuple[str, LowRank]]:
    """Make the updates of experts: of a whole stack (`target_parameters`), or of one that the base stores in a stack.

    PEFT stores A of a stack as (experts * rank, columns), the expert first, and B as (rows, rank * experts), the expert
    last (`ParamWrapper.get_delta_weight`). Versions before 0.18 take rows for columns.
    """
    first = group[A]
    if single := ONE_EXPERT.fullmatch(module):
        stack_module, expert, projection = single[1], int(single[2]), single[3]
        for stack in base.stacks(stack_module):
            part = next((part for name, part in stack.projections if name == projection), projection)
            if part != projection and stack.source in base.shapes:
                count, rows, columns = base.shapes[stack.source]
                if expert >= count:
                    return
                size = rows // len(stack.projections)
                magnitude = _finite(adapter, group[MAGNITUDE].key) if MAGNITUDE in group else None
                if magnitude is not None:
                    raise AdapterError(
                        f"{adapter.folder}: {group[MAGNITUDE].key} is DoRA of a single expert, but the base stacks its "
                        "experts; merge it with PEFT into a base with single experts"
                    )
                made = _of_matrix(adapter, group, a, b, None, (size, columns))
                start = part.index * size if isinstance(part, Part) else 0
                yield stack.source, LowRank(first.key, made.a, made.b, made.scale, expert=expert, first_row=start)
        return
    for stack in base.stacks(module):
        count, rows, columns = base.stacked_shape(stack)
        path = f"{first.path}.{stack.source.rpartition('.')[2]}"
        rank = adapter.config.rank_of(path)
        scale = adapter.config.scale_of(path) * adapter.scale
        if (a.shape, b.shape) == ((count * rank, columns), (rows, rank * count)):
            factors = a.reshape(count, rank, columns), np.moveaxis(b.reshape(rows, rank, count), 2, 0)
        elif (a.shape, b.shape) == ((count * rank, rows), (columns, rank * count)):
            turned = np.moveaxis(b.reshape(columns, rank, count), (2, 1, 0), (0, 1, 2))
            factors = turned, np.moveaxis(a.reshape(count, rank, rows), 1, 2)
        else:
            continue
        if stack.source in base.shapes:
            yield stack.source, LowRank(first.key, *factors, scale, rounded=True)
            return
        for expert in range(count):
            for projection, part in stack.projections:
                one = LowRank(first.key, factors[0][expert], _rows_of(factors[1][expert], part), scale, rounded=True)
                yield f"{module}.{expert}.{projection}.weight", one
        return
    if base.stacks(module):
        raise AdapterError(
            f"{adapter.folder}: {first.key} has A {list(a.shape)}, B {list(b.shape)}, which fit no "
            f"tensor of the experts at rank {adapter.config.rank}; the adapter belongs to another model"
        )


def _rows_of(matrix: Array, part: Part | None) -> Array:
    """Return the rows of one expert's matrix, or factor, that a part of the stacked tensor takes."""
    return matrix if part is None else np.split(matrix, part.count, axis=part.axis - 1)[part.index]


def _matrix_of(base: Base, fitted: Fitted, module: str) -> str:
    """Return the tensor of a module; the output matrix is the embedding, where they are tied."""
    name = f"{module}.weight"
    return EMBEDDING if name == OUTPUT and base.tied and not fitted.unties else name


def _check_pair(adapter: Adapter, module: str, group: Mapping[Role, Entry]) -> None:
    first = next(iter(group.values()))
    if ROWS not in group and (A not in group or B not in group):
        missing, other = ("lora_A", "lora_B") if A not in group else ("lora_B", "lora_A")
        raise AdapterError(
            f"{adapter.folder}: {first.key} has no {missing} beside it ({other} of {module}); the file is incomplete"
        )
    if MAGNITUDE in group and not adapter.config.decomposed:
        raise AdapterError(
            f"{adapter.config.where}: use_dora is false, but there is {group[MAGNITUDE].key}; "
            "the files belong to different adapters"
        )
    if adapter.config.decomposed and A in group and MAGNITUDE not in group:
        raise AdapterError(
            f"{adapter.config.where}: use_dora is true, but {group[A].key} has no lora_magnitude_vector beside it; "
            "the files belong to different adapters"
        )


def _finite(adapter: Adapter, key: str) -> Array:
    values = adapter.read(key)
    flat = values.reshape(-1)
    for start in range(0, flat.size, CHECKED):
        if not np.isfinite(flat[start : start + CHECKED].astype(np.float32)).all():
            raise AdapterError(f"{adapter.folder}: {key} has values that are not finite; the training diverged")
    return values


def _unknown(adapter: Adapter, base: Base, key: str, name: str) -> AdapterError:
    near = difflib.get_close_matches(name, base.shapes, 1, 0.9)
    hint = f" (the nearest is {near[0]})" if near else ""
    return AdapterError(
        f"{adapter.folder}: {key} is for {name}, which {base.where} does not have{hint}; "
        f"the adapter was trained on another model{f', {adapter.config.base}' if adapter.config.base else ''}"
    )


def _note_scale(adapter: Adapter, fitted: Fitted) -> None:
    whole = [u.key for updates in fitted.updates.values() for u in updates if isinstance(u, Whole | Rows)]
    whole = [key for key in whole if ".base_layer." not in key]
    if adapter.scale != 1 and whole:
        fitted.notes.append(
            f"{adapter.name}: the scale {adapter.scale:g} is that of the low-rank updates; {len(whole)} tensors are "
            f"taken as they were saved, first {whole[0]}"
        )
