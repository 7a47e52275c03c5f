"""Recipes: files with the name of a preset, and ordered rules for the tensors that get another type.

    recipe: 1
    name: deltanet
    base: Q4_K_M
    rules:
    - {tensors: ssm_out, layers: 0-3 7, type: Q6_K}
    - {tensors: 'ffn_*', type: Q4_K}

The first rule that matches decides. `tensors` are kinds of tensors (the name without block and `.weight`) with * and ?
(`ssm_out`, `attn_*`, `nextn.eh_proj`, `token_embd`, `output`), one or a list; `layers` are numbers and ranges, or `mtp`
for the blocks of the MTP head.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from gguf import GGMLQuantizationType

from qwen35_gguf import bounded_file
from qwen35_gguf.errors import RecipeError
from qwen35_gguf.json_file import printable, some_of
from qwen35_gguf.quant import presets, tensor_types

Type = GGMLQuantizationType
LARGEST = 1 << 20  # bytes
MOST_NAMED = 5  # unknown entries in a message

VERSION = 1
MTP = "mtp"
BUILT_IN = ("deltanet",)


@dataclass(frozen=True)
class RecipeRule:
    """One rule.

    Attributes:
        kinds: patterns of the kinds of tensors.
        layers: in which it holds, -1 for the MTP head; None: everywhere.
        type: of these tensors.

    """

    kinds: tuple[str, ...]
    layers: frozenset[int] | None
    type: Type

    def matches(self, kind: str, layer: int | None) -> bool:
        """Tell whether the rule holds for a tensor; `layer` is None outside of the blocks."""
        if self.layers is not None and layer not in self.layers:
            return False
        return any(fnmatchcase(kind, pattern) for pattern in self.kinds)


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        name: goes into the names of the GGUF files and their metadata.
        base: the preset for tensors that no rule matches.
        rules: in order.
        sha256: of the text.

    """

    name: str
    base: presets.Preset
    rules: tuple[RecipeRule, ...]
    sha256: str = ""

    def type_of(self, tensor: str, shape: tuple[int, ...], layers: int, *, tied: bool = False) -> Type | None:
        """Return the type that a rule gives a tensor, None if no rule does or the tensor stays F32.

        Args:
            tensor: its GGUF name.
            shape: the row length last.
            layers: of the main model; blocks from there on are the MTP head's.
            tied: the embedding is also the output matrix, so that rules for either hold for it.

        """
        if len(shape) < 2 or tensor_types.KEPT_F32.search(tensor):
            return None
        kind, layer = split_name(tensor, layers)
        kinds = (kind, "output") if tied and kind == "token_embd" else (kind,)
        type_ = next((rule.type for rule in self.rules if any(rule.matches(k, layer) for k in kinds)), None)
        return None if type_ is None else tensor_types.type_for_rows(type_, shape[-1])


def split_name(tensor: str, layers: int) -> tuple[str, int | None]:
    """Split a tensor's name into kind and layer: `blk.3.ssm_out.weight` is ("ssm_out", 3).

    The layer is -1 in the MTP head, whose blocks follow the `layers` of the main model, and None outside of the blocks.
    """
    bare = tensor.removesuffix(".weight")
    block = re.match(r"blk\.(\d+)\.(.*)", bare)
    if not block:
        return bare, None
    layer = int(block[1])
    return block[2], layer if layer < layers else -1


def variants(name: str) -> list[str]:
    """List the presets for which a built-in recipe exists."""
    folder = resources.files("qwen35_gguf.quant").joinpath("builtin").joinpath(name)
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def find(name: str, quant: str) -> Recipe:
    """Read a recipe: a file, or a built-in one in its variant for the preset `quant`.

    Raises:
        RecipeError: it is missing or malformed.

    """
    if name in BUILT_IN:
        base = presets.find_preset(quant).name
        folder = resources.files("qwen35_gguf.quant").joinpath("builtin").joinpath(name)
        known = variants(name)
        if base not in known:
            raise RecipeError(
                f"--recipe {name}: exists for {', '.join(known)}, not for {base}; choose one of them with --quant"
            )
        return parse(folder.joinpath(f"{base}.yaml").read_text(encoding="utf-8"), f"{name}/{base}")
    path = Path(name)
    try:
        text = bounded_file.read_bytes(path, LARGEST).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(f"{path}: {reason}; give a file made by `qwen35 recipe`, or {', '.join(BUILT_IN)}") from None
    return parse(text, str(path))


def parse(text: str, where: str) -> Recipe:
    """Read the text of a recipe.

    Raises:
        RecipeError: what is wrong, and in which rule.

    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{where}: is not valid YAML{line}") from None
    if not isinstance(data, dict) or data.get("recipe") != VERSION:
        raise RecipeError(f"{where}: is not a recipe; it must begin with `recipe: {VERSION}`")
    unknown = set(data) - {"recipe", "name", "base", "rules", "about"}
    if unknown:
        entries = some_of(sorted(printable(str(entry)) for entry in unknown), MOST_NAMED)
        raise RecipeError(f"{where}: has unknown entries: {entries}")
    rules = data.get("rules") or []
    if not isinstance(rules, list):
        raise RecipeError(f"{where}: rules is not a list")
    name, base = data.get("name"), data.get("base")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise RecipeError(f"{where}: needs a name of letters, digits, dots, - and _")
    if not isinstance(base, str) or base.upper() not in {*presets.PRESETS_BY_NAME, *presets.ALIASES}:
        names = ", ".join(presets.PRESETS_BY_NAME)
        raise RecipeError(f"{where}: base is {printable(repr(base))}, and must be one of {names}")
    made = tuple(_rule(rule, f"{where}: rule {number}") for number, rule in enumerate(rules, 1))
    return Recipe(name, presets.find_preset(base), made, hashlib.sha256(text.encode()).hexdigest())


def _rule(rule: Any, where: str) -> RecipeRule:
    if not isinstance(rule, dict) or set(rule) - {"tensors", "layers", "type"} or not {"tensors", "type"} <= set(rule):
        raise RecipeError(f"{where} must have tensors and type, and may have layers")
    kinds = rule["tensors"] if isinstance(rule["tensors"], list) else [rule["tensors"]]
    if not kinds or not all(isinstance(kind, str) and kind for kind in kinds):
        raise RecipeError(f"{where}: tensors is not a name or a list of names")
    type_ = Type.__members__.get(str(rule["type"]).upper())
    if type_ not in presets.FORMATS:
        raise RecipeError(f"{where}: {printable(repr(rule['type']))} is not a type of weights, such as Q4_K")
    return RecipeRule(tuple(kinds), _layers(rule["layers"], where) if "layers" in rule else None, type_)


def _layers(value: Any, where: str) -> frozenset[int]:
    found: set[int] = set()
    for part in str(value).replace(",", " ").split():
        span = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if part == MTP:
            found.add(-1)
        elif span and int(span[2] or span[1]) >= int(span[1]):
            found.update(range(int(span[1]), int(span[2] or span[1]) + 1))
        else:
            raise RecipeError(f"{where}: {printable(repr(part))} is not a layer, a range of layers, or {MTP}")
    if not found:
        raise RecipeError(f"{where}: layers is empty")
    return frozenset(found)


def to_text(name: str, base: str, types: Mapping[str, Type], layers: int, about: Sequence[str] = ()) -> str:
    """Return a recipe of few rules that gives tensors these types: the usual type of a kind last, exceptions before.

    Args:
        name: of the recipe.
        base: the preset for tensors that are not named.
        types: by tensor.
        layers: of the main model.
        about: lines of comment.

    """
    kinds: dict[str, dict[Type, list[int | None]]] = {}
    for tensor, type_ in types.items():
        kind, layer = split_name(tensor, layers)
        kinds.setdefault(kind, {}).setdefault(type_, []).append(layer)
    lines = [f"# {line}" for line in about] + [f"recipe: {VERSION}", f"name: {name}", f"base: {base}", "rules:"]
    for kind in sorted(kinds):
        by_count = sorted(kinds[kind].items(), key=lambda item: (-len(item[1]), item[0].name))
        for type_, found in [*by_count[1:], by_count[0]]:
            everywhere = type_ is by_count[0][0]
            where = "" if everywhere else f", layers: {ranges(found)}"
            lines.append(f"- {{tensors: {kind}{where}, type: {type_.name}}}")
    return "\n".join(lines) + "\n"


def ranges(layers: Iterable[int | None]) -> str:
    """Write layers as numbers and ranges."""
    known = sorted(layer for layer in layers if layer is not None)
    parts = [MTP] if -1 in known else []
    run: list[int] = []
    for layer in [*(n for n in known if n >= 0), 1 << 30]:
        if run and layer != run[-1] + 1:
            parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
            run = []
        run.append(layer)
    return " ".join(parts)
