"""Join the tensors of quantized modules: from what the files hold to weights that can be read.

The tensors decide which modules are quantized, and how; what config.json tells differently is a note
where the tensors leave no doubt, and an error where they do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from qwen35_gguf.convert.dequantize import formats
from qwen35_gguf.convert.dequantize.formats import FORMATS, TITLES, Format
from qwen35_gguf.convert.dequantize.module_names import UNUSED, role_of, weight_name
from qwen35_gguf.convert.dequantize.quantized_tensor import Module, QuantizedTensor, View
from qwen35_gguf.convert.dequantize.settings import Method, Settings
from qwen35_gguf.convert.source_tensors.parts import VISION, part_of
from qwen35_gguf.convert.source_tensors.safetensors_header import FLOAT_DTYPES, StoredTensor
from qwen35_gguf.errors import CheckpointError

ADVICE = "download it again or quantize it anew"


@dataclass(frozen=True)
class Assembled:
    """What became of the tensors.

    Attributes:
        tensors: by canonical name, each quantized module as its weights, with their shape.
        quantized: how to read those, by the stored name of the tensor that holds the weights.
        notes: for the user, one line each.

    """

    tensors: dict[str, StoredTensor]
    quantized: dict[str, QuantizedTensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def assemble(found: Mapping[str, StoredTensor], method: Method | None, view: View) -> Assembled:
    """Join the tensors of each quantized module.

    Args:
        found: all tensors, by canonical name.
        method: of config.json; None if it describes none.
        view: returns the numbers of a tensor.

    Raises:
        CheckpointError: a companion is missing, or does not fit its weights or config.json; or weights are quantized
            and config.json does not tell how.

    """
    method = method or _undescribed(found)
    if method is None:
        return Assembled(dict(found))
    modules: dict[str, dict[str, StoredTensor]] = {}
    stacks: set[str] = set()
    for name, stored in found.items():
        module, role, stack = role_of(name)
        modules.setdefault(module, {})[role] = stored
        if stack:
            stacks.add(module)
    tensors: dict[str, StoredTensor] = {}
    quantized: dict[str, QuantizedTensor] = {}
    counts: Counter[str] = Counter()
    unused, biases, excluded = 0, 0, []
    rows = {module: _format(method, roles, module) for module, roles in modules.items()}
    for name, stored in found.items():
        module, role, _ = role_of(name)
        roles, row = modules[module], rows[module]
        if row is None:
            if role in UNUSED:
                unused += 1
            else:
                tensors[name] = stored
            continue
        if role == row.weight:
            read = _read(row, method, module, roles, view, stack=module in stacks)
            main = roles[row.weight]
            tensors[weight_name(module)] = StoredTensor(
                main.name, main.dtype, read.shape, main.file, main.start, main.stop
            )
            quantized[main.name] = read
            counts[row.title] += 1
            if entry := method.excludes(_stored_module(main.name)):
                excluded.append((entry, main.name))
        elif role in UNUSED:
            unused += 1
        elif role == "bias" and part_of(name) != VISION and not view(stored).any():
            biases += 1
        elif role not in row.needs and role not in row.may:
            tensors[name] = stored
    return Assembled(tensors, quantized, tuple(_notes(method, counts, unused, biases, excluded)))


def _undescribed(found: Mapping[str, StoredTensor]) -> Method | None:
    """Return the method of FP8 weights that bring their scales and need no description."""
    roles = {name: role_of(name).role for name in found}
    if "weight_scale_inv" in roles.values():
        return Method(formats.FP8, Settings("config.json, which has no quantization_config,", blocks=((128, 128),)))
    for name, stored in found.items():
        if stored.dtype in formats.FLOAT8 and roles[name] == "weight":
            raise CheckpointError(
                f"{stored.file}: FP8 tensor {stored.name} has no scales, and config.json has no quantization_config "
                "that tells how to read it; restore it, or convert the original BF16 checkpoint"
            )
    return None


def _format(method: Method, roles: Mapping[str, StoredTensor], module: str) -> Format | None:
    """Find the row of a module; None if its weights are stored as they are.

    Raises:
        CheckpointError: there are weights or companions of this method, but no row is theirs.

    """
    rows = [row for row in FORMATS if row.method == method.name]
    for row in rows:
        weight = roles.get(row.weight)
        if weight is None or weight.dtype not in row.dtypes:
            continue
        if row.marker is None or _marked(row.marker, method, roles):
            return row
    weight = next((roles[row.weight] for row in rows if row.weight in roles), None)
    if weight is not None and (weight.dtype not in FLOAT_DTYPES or _companion(rows, roles)):
        companion = _companion(rows, roles)
        beside = f" beside {companion.name} ({companion.dtype})" if companion else ""
        raise CheckpointError(
            f"{weight.file}: {weight.name} is {weight.dtype}{beside}, which {TITLES[method.name]} "
            "does not store in a way that is read; convert the original BF16 checkpoint instead"
        )
    if weight is None and (companion := _companion(rows, roles)):
        wanted = " or ".join(dict.fromkeys(row.weight for row in rows))
        raise CheckpointError(
            f"{companion.file}: {companion.name} is there, but not its weights, {module}.{wanted}; {ADVICE}"
        )
    return None


def _marked(marker: tuple[str, tuple[str, ...]], method: Method, roles: Mapping[str, StoredTensor]) -> bool:
    role, wanted = marker
    if role == "mode":
        return method.of(_stored_module(roles["weight"].name)).mode in wanted
    return role in roles and roles[role].dtype in wanted


def _companion(rows: list[Format], roles: Mapping[str, StoredTensor]) -> StoredTensor | None:
    named = {role for row in rows for role in row.needs} - {"scale"}
    return next((roles[role] for role in roles if role in named), None)


def _read(
    row: Format, method: Method, module: str, roles: Mapping[str, StoredTensor], view: View, *, stack: bool
) -> QuantizedTensor:
    weight = roles[row.weight]
    for role, dtypes in row.needs.items():
        if role not in roles:
            there = [stored.name for key, stored in roles.items() if key in row.needs or key in row.may]
            beside = f" ({', '.join(there)} {'is' if len(there) == 1 else 'are'} there)" if there else ""
            raise CheckpointError(
                f"{weight.file}: {weight.name} is {weight.dtype} and has no {_companion_name(row, weight.name, role)}"
                f"{beside}; {ADVICE}"
            )
        _check_dtype(weight, roles[role], dtypes)
    for role in row.may.keys() & roles.keys():
        _check_dtype(weight, roles[role], row.may[role])
    used = {role: roles[role] for role in (row.weight, *row.needs, *row.may) if role in roles}
    experts = weight.shape[0] if stack and len(weight.shape) > 2 else 0
    settings = method.of(_stored_module(weight.name))
    if settings.symmetric is False and "weight_zero_point" in row.may and "weight_zero_point" not in roles:
        raise CheckpointError(
            f"{weight.file}: {weight.name} has no {_companion_name(row, weight.name, 'weight_zero_point')}, but "
            f"{settings.where} gives symmetric: false; {ADVICE}"
        )
    if experts == 0 and 0 in weight.shape:
        raise CheckpointError(f"{weight.file}: {weight.name} is empty, {list(weight.shape)}; {ADVICE}")
    described = Module(module, used, settings, view, experts)
    return QuantizedTensor(row.title, described, row.plan(described))


def _companion_name(row: Format, weight: str, role: str) -> str:
    """Return the name that a missing companion has beside the weights, as they are stored."""
    if role_of(weight).stack:
        return weight.removesuffix(f"_{row.weight}") + "_" + role.removeprefix("weight_")
    if row.method == formats.BITSANDBYTES and role not in ("SCB", "weight_format"):
        return f"{weight}.{role}" + (".bitsandbytes__nf4" if role == "quant_state" else "")
    return f"{weight.removesuffix(row.weight)}{role}"


def _check_dtype(weight: StoredTensor, companion: StoredTensor, dtypes: tuple[str, ...]) -> None:
    if companion.dtype not in dtypes:
        raise CheckpointError(
            f"{companion.file}: {companion.name} is {companion.dtype}; must be {' or '.join(dtypes)} beside "
            f"{weight.name} ({weight.dtype}); {ADVICE}"
        )
    if 0 in companion.shape:
        raise CheckpointError(
            f"{companion.file}: {companion.name} is empty, {list(companion.shape)}, beside {weight.name} "
            f"{list(weight.shape)}; {ADVICE}"
        )


def _stored_module(name: str) -> str:
    """Return the name of the module of a stored tensor, as configurations call it."""
    module, _, role = name.rpartition(".")
    return module if role in formats.WEIGHTS else name


def _notes(
    method: Method, counts: Counter[str], unused: int, biases: int, excluded: list[tuple[str, str]]
) -> list[str]:
    if not counts:
        return [
            f"{method.settings.where} describes {TITLES[method.name]} weights, but no tensor is quantized: the weights "
            "are read as they are"
        ]
    listed = ", ".join(f"{count} {title}" for title, count in counts.items())
    notes = [
        f"the checkpoint is quantized ({listed} tensors), and is dequantized while it is read: the quality is that of "
        "the quantized source, not that of the model it was made of"
    ]
    if unused:
        notes.append(f"{unused} scales of activations or of the KV cache are not used")
    if biases:
        notes.append(f"{biases} biases hold only zeros and are left out: the model has none")
    if excluded:
        entry, name = excluded[0]
        notes.append(
            f"{method.settings.where} excludes {entry} from quantization, but {len(excluded)} such tensors are stored "
            f"quantized, first {name}: they are read as they are stored"
        )
    return notes
