"""Numbers, names and layer kinds of a parsed config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.json_file import FLAG, TEXT, JsonObject, at_most, list_of, one_of

Config = Mapping[str, Any]
LayerKind = Literal["linear_attention", "full_attention"]

LINEAR: LayerKind = "linear_attention"
FULL: LayerKind = "full_attention"

DENSE, MOE = "qwen35", "qwen35moe"
# The classes of transformers, and the name of their architecture in GGUF.
CLASSES = {
    "Qwen3_5ForConditionalGeneration": DENSE,
    "Qwen3_5ForCausalLM": DENSE,
    "Qwen3_5MoeForConditionalGeneration": MOE,
    "Qwen3_5MoeForCausalLM": MOE,
}
# The same by `model_type`, which is what transformers chooses the class by.
MODEL_TYPES = {
    "qwen3_5": DENSE,
    "qwen3_5_text": DENSE,
    "qwen3_5_moe": MOE,
    "qwen3_5_moe_text": MOE,
}
DEFAULT_INTERVAL = 4  # every fourth layer is full attention

# Far above any model's. Names are listed for each layer and each expert, so that a damaged number must not be taken.
MOST_LAYERS = 10_000
LAYERS = at_most(MOST_LAYERS)
EXPERTS = at_most(100_000)


def architecture_name(config: Config, where: str = "config.json") -> str:
    """Return qwen35 or qwen35moe: by `model_type`, as transformers does, and by `architectures` without one.

    Raises:
        CheckpointError: another model.

    """
    read = JsonObject(config, where)
    names = read.get("architectures", list_of(TEXT), [])
    model_type = read.get("model_type", TEXT)
    nested = read.section("text_config").get("model_type", TEXT) if model_type is None else None
    for known, candidates in ((MODEL_TYPES, [model_type]), (CLASSES, names), (MODEL_TYPES, [nested])):
        for name in candidates:
            if name in known:
                return known[name]
    found = ", ".join(names) or model_type or nested or "not stated"
    raise CheckpointError(
        f"{where}: architecture is {found}, not Qwen3.5; known are {', '.join(CLASSES)}, and as model_type "
        f"{', '.join(MODEL_TYPES)}"
    )


def text_section(config: Config, where: str = "config.json") -> JsonObject:
    """Return the text model's part of config.json: `text_config`, and behind it the top level; or all if it is flat."""
    whole = JsonObject(config, where)
    return replace(whole.section("text_config"), fallback=whole) if "text_config" in whole else whole


def text_config(config: Config, where: str = "config.json") -> dict[str, Any]:
    """Return the text model's part of config.json, whether nested or flat, as one dictionary."""
    return {**config, **JsonObject(config, where).section("text_config").values}


def claims_tied(config: Config, where: str = "config.json") -> bool:
    """Tell whether config.json claims that the embedding is also the output matrix.

    Of a nested config transformers reads the top level. Older saves have it in `text_config` alone, where it means the
    same. It only counts for a checkpoint without an output matrix of its own.
    """
    whole = JsonObject(config, where)
    claims = (part.get("tie_word_embeddings", FLAG, False) for part in (whole, whole.section("text_config")))
    return any(claims)


def layer_kinds(layers: int, interval: int) -> tuple[LayerKind, ...]:
    """Return the usual pattern: every `interval`-th layer is full attention, the others are delta nets."""
    return tuple(FULL if (layer + 1) % interval == 0 else LINEAR for layer in range(layers))


def layer_kinds_of(text: JsonObject) -> tuple[LayerKind, ...]:
    """Return the kind of each layer of the main model: `layer_types` of config.json, or the usual pattern.

    Raises:
        CheckpointError: `layer_types` has another number of entries than there are layers, or an unknown one.

    """
    layers = text.need("num_hidden_layers", LAYERS)
    listed = text.get("layer_types", list_of(one_of(LINEAR, FULL)))
    if listed is None:
        return layer_kinds(layers, interval_of(text))
    if len(listed) != layers:
        must = f"a list with num_hidden_layers = {layers} entries, and has {len(listed)}"
        raise text.mistake("layer_types", must)
    return cast("tuple[LayerKind, ...]", tuple(listed))


def interval_of(text: JsonObject) -> int:
    """Return `full_attention_interval` of config.json. Raises CheckpointError if it is not a size."""
    return text.get("full_attention_interval", LAYERS, DEFAULT_INTERVAL)
