"""Recipes in a file: a mix by name, and ordered rules for the tensors that get another type.

    recipe: 1
    name: deltanet
    base: Q4_K_M
    rules:
    - {tensors: ssm_out, layers: 0-3 7, type: Q6_K}
    - {tensors: 'ffn_*', type: Q4_K}

The first rule that matches decides. `tensors` are roles with * and ? (`ssm_out`, `attn_*`, `nextn.eh_proj`,
`token_embd`, `output`), one or a list; `layers` are numbers and ranges, or `mtp` for the layers of the MTP head.
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

from qwen35_gguf.errors import RecipeError
from qwen35_gguf.quant import presets, tensor_types

Type = GGMLQuantizationType

VERSION = 1
MTP = "mtp"
BUILT_IN = ("deltanet",)
LINE = 120


@dataclass(frozen=True)
class FileRule:
    """Tensors of some roles, in some layers (None: everywhere; -1 stands for the MTP head), get a type."""

    roles: tuple[str, ...]
    layers: frozenset[int] | None
    type: Type

    def matches(self, role: str, layer: int | None) -> bool:
        """Tell whether it is for this tensor; `layer` is None outside of the blocks."""
        if self.layers is not None and layer not in self.layers:
            return False
        return any(fnmatchcase(role, pattern) for pattern in self.roles)


@dataclass(frozen=True)
class FileRecipe:
    """A recipe from a file.

    Attributes:
        name: goes into the file's name and its metadata.
        base: the mix for tensors that no rule names.
        rules: in order.
        sha256: of the text.

    """

    name: str
    base: presets.Preset
    rules: tuple[FileRule, ...]
    sha256: str = ""

    def type_of(self, tensor: str, shape: tuple[int, ...], trunk_layers: int, *, tied: bool = False) -> Type | None:
        """Return the type that a rule gives a tensor, None if none does or the tensor stays F32.

        A tied embedding is also the output matrix: rules for either are rules for it.
        """
        if len(shape) < 2 or tensor_types.KEPT_F32.search(tensor):
            return None
        role, layer = place(tensor, trunk_layers)
        roles = (role, "output") if tied and role == "token_embd" else (role,)
        type_ = next((rule.type for rule in self.rules if any(rule.matches(r, layer) for r in roles)), None)
        return None if type_ is None else tensor_types.type_for_rows(type_, shape[-1])


def place(tensor: str, trunk_layers: int) -> tuple[str, int | None]:
    """Split a tensor's name into role and layer: -1 for the MTP head, None outside of the blocks."""
    bare = tensor.removesuffix(".weight")
    block = re.match(r"blk\.(\d+)\.(.*)", bare)
    if not block:
        return bare, None
    layer = int(block[1])
    return block[2], layer if layer < trunk_layers else -1


def sizes(name: str) -> list[str]:
    """List the mixes for which there is a recipe that comes with the package."""
    folder = resources.files("qwen35_gguf.quant").joinpath("builtin").joinpath(name)
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def find(name: str, quant: str) -> FileRecipe:
    """Read a recipe: a file, or one that comes with the package, for the size of the mix `quant`.

    Raises:
        RecipeError: it is missing or malformed.

    """
    if name in BUILT_IN:
        base = presets.find_preset(quant).name
        folder = resources.files("qwen35_gguf.quant").joinpath("builtin").joinpath(name)
        known = sizes(name)
        if base not in known:
            raise RecipeError(f"--recipe {name}: is there for {', '.join(known)}, not for {base}")
        return parse(folder.joinpath(f"{base}.yaml").read_text(encoding="utf-8"), f"{name}/{base}")
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(f"{path}: {reason}; name a file of `qwen35 recipe`, or {', '.join(BUILT_IN)}") from None
    return parse(text, str(path))


def parse(text: str, where: str) -> FileRecipe:
    """Read the text of a recipe.

    Raises:
        RecipeError: what is wrong, and in which rule.

    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{where}: is no YAML{line}") from None
    if not isinstance(data, dict) or data.get("recipe") != VERSION:
        raise RecipeError(f"{where}: is no recipe; it has to begin with `recipe: {VERSION}`")
    unknown = set(data) - {"recipe", "name", "base", "rules", "about"}
    if unknown:
        raise RecipeError(f"{where}: does not know {', '.join(map(str, sorted(unknown, key=str)))}")
    rules = data.get("rules") or []
    if not isinstance(rules, list):
        raise RecipeError(f"{where}: rules is not a list")
    name, base = data.get("name"), data.get("base")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise RecipeError(f"{where}: needs a name of letters, digits, dots, - and _")
    if not isinstance(base, str) or base.upper() not in {*presets.PRESETS_BY_NAME, *presets.ALIASES}:
        raise RecipeError(f"{where}: base is {base!r}, and has to be one of {', '.join(presets.PRESETS_BY_NAME)}")
    made = tuple(_rule(rule, f"{where}: rule {number}") for number, rule in enumerate(rules, 1))
    return FileRecipe(name, presets.find_preset(base), made, hashlib.sha256(text.encode()).hexdigest())


def _rule(rule: Any, where: str) -> FileRule:
    if not isinstance(rule, dict) or set(rule) - {"tensors", "layers", "type"} or not {"tensors", "type"} <= set(rule):
        raise RecipeError(f"{where} has to have tensors and type, and may have layers")
    roles = rule["tensors"] if isinstance(rule["tensors"], list) else [rule["tensors"]]
    if not roles or not all(isinstance(role, str) and role for role in roles):
        raise RecipeError(f"{where}: tensors is not a name or a list of names")
    type_ = Type.__members__.get(str(rule["type"]).upper())
    if type_ not in presets.FORMATS:
        raise RecipeError(f"{where}: {rule['type']!r} is no type of weights, such as Q4_K")
    return FileRule(tuple(roles), _layers(rule["layers"], where) if "layers" in rule else None, type_)


def _layers(value: Any, where: str) -> frozenset[int]:
    found: set[int] = set()
    for part in str(value).replace(",", " ").split():
        span = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if part == MTP:
            found.add(-1)
        elif span and int(span[2] or span[1]) >= int(span[1]):
            found.update(range(int(span[1]), int(span[2] or span[1]) + 1))
        else:
            raise RecipeError(f"{where}: {part!r} is no layer, range of layers, or {MTP}")
    if not found:
        raise RecipeError(f"{where}: layers is empty")
    return frozenset(found)


def write(name: str, base: str, types: Mapping[str, Type], trunk_layers: int, about: Sequence[str] = ()) -> str:
    """Write the types of tensors as a recipe of few rules: the usual type of a role last, its exceptions before.

    Args:
        name: of the recipe.
        base: the mix for tensors that are not named.
        types: by tensor.
        trunk_layers: how many layers come before the MTP head.
        about: lines of comment.

    """
    roles: dict[str, dict[Type, list[int | None]]] = {}
    for tensor, type_ in types.items():
        role, layer = place(tensor, trunk_layers)
        roles.setdefault(role, {}).setdefault(type_, []).append(layer)
    lines = [f"# {line}" for line in about] + [f"recipe: {VERSION}", f"name: {name}", f"base: {base}", "rules:"]
    for role in sorted(roles):
        by_count = sorted(roles[role].items(), key=lambda item: (-len(item[1]), item[0].name))
        for type_, layers in [*by_count[1:], by_count[0]]:
            everywhere = type_ is by_count[0][0]
            where = "" if everywhere else f", layers: {ranges(layers)}"
            lines.append(f"- {{tensors: {role}{where}, type: {type_.name}}}")
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
