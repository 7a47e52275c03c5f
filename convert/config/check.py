"""Refuse a config.json that asks for something that the GGUF would not compute.

Every key is looked up in `known_keys`. What is not known, or has a value that llama.cpp's graph does not compute, is an
error that names it; the user can have it ignored, as if it was not there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from qwen35_gguf.architecture import text_section
from qwen35_gguf.architecture.config import CLASSES, MODEL_TYPES, Config
from qwen35_gguf.convert.config import known_keys
from qwen35_gguf.convert.config.rope import read_rope
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.json_file import SIZE, TEXT, JsonObject, Kind, list_of, shown

SECTIONS = ("text_config", "vision_config", "rope_parameters", "rope_scaling")
OPTION = "--ignore-config"
MTP_KEYS = ("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")


def without(config: Config, ignored: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """Return config.json without the ignored keys, each given by its name or its path, and a note for each.

    The keys of the parts for text, vision and rotary positions are found by their names, too.
    """
    found: set[str] = set()

    def copy(part: Config, path: str) -> dict[str, Any]:
        kept = {}
        for key, value in part.items():
            inner = f"{path}.{key}" if path else key
            named = {key, inner} & set(ignored)
            found.update(named)
            if not named:
                kept[key] = copy(value, inner) if key in SECTIONS and isinstance(value, dict) else value
        return kept

    remaining = copy(config, "")
    return remaining, [
        f"{OPTION} {key}: " + ("ignored, as if it was not there" if key in found else "config.json has no such key")
        for key in dict.fromkeys(ignored)
    ]


def without_mtp(config: Config) -> dict[str, Any]:
    """Return config.json without its claims about the MTP head, which may be anything if the head is left out."""
    return without(config, MTP_KEYS)[0]


def check_text(config: Config, where: str) -> list[str]:
    """Check all keys but those of the vision encoder; return notes about what disagrees.

    Raises:
        CheckpointError: a key is unknown, or has a value that cannot be computed.

    """
    whole = JsonObject(config, where)
    text = text_section(config, where)
    problems: list[tuple[str, str]] = []
    for part in (whole, whole.section("text_config")):
        problems += _problems(part, known_keys.READ, known_keys.HARMLESS, known_keys.LIMITED)
        for rope in ("rope_parameters", "rope_scaling"):
            problems += _problems(part.section(rope), known_keys.READ_ROPE)
    _refuse(where, problems)
    if text.need("linear_key_head_dim", SIZE) != text.need("linear_value_head_dim", SIZE):
        raise text.mistake("linear_value_head_dim", "as linear_key_head_dim: llama.cpp's delta nets have one size")
    return [*_architecture_notes(whole), *read_rope(text).notes]


def check_vision(config: Config, where: str) -> None:
    """Check the keys of the vision encoder. Raises as `check_text`."""
    vision = JsonObject(config, where).section("vision_config")
    harmless = {**known_keys.HARMLESS, **known_keys.HARMLESS_VISION}
    problems = [*_problems(vision, known_keys.READ_VISION, harmless, known_keys.LIMITED_VISION)]
    problems += _problems(vision.section("rope_parameters"), frozenset(), {}, known_keys.LIMITED_VISION_ROPE)
    _refuse(where, problems)


def _problems(
    part: JsonObject,
    read: frozenset[str],
    harmless: Mapping[str, frozenset[str]] = {},
    limited: Mapping[str, Kind[Any]] = {},
) -> Iterator[tuple[str, str]]:
    """Yield the path of each key that cannot be accepted, and what is wrong with it."""
    known = read.union(*harmless.values())
    for key, value in part.values.items():
        path = f"{part.path}.{key}" if part.path else key
        if value is None or key in known:
            continue
        if key not in limited:
            yield path, f"{path} is {shown(value)}: a key that is not known, and may change what the model computes"
        elif not limited[key].accepts(value):
            yield path, f"{path} is {shown(value)}; must be {limited[key].name}: llama.cpp computes nothing else"


def _refuse(where: str, problems: list[tuple[str, str]]) -> None:
    if problems:
        path, what = problems[0]
        others = f" (and {len(problems) - 1} more: {', '.join(path for path, _ in problems[1:])})"
        raise CheckpointError(
            f"{where}: {what}{others if len(problems) > 1 else ''}; if it does not matter, convert with {OPTION} {path}"
        )


def _architecture_notes(whole: JsonObject) -> Iterator[str]:
    names = whole.get("architectures", list_of(TEXT), [])
    model_type = whole.get("model_type", TEXT)
    known = MODEL_TYPES.get(model_type or "")
    if known and not any(CLASSES.get(name) == known for name in names):
        named = ", ".join(names) or "none"
        yield f"config.json has architectures: {named}; its model_type {model_type} counts, as in transformers"
    elif known is None and model_type is not None:
        yield f"config.json has the unknown model_type {model_type}; its architectures count: {', '.join(names)}"
