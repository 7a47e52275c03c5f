"""Numbers, names and layer kinds of a parsed config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qwen35_gguf.errors import CheckpointError

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
DEFAULT_INTERVAL = 4  # every fourth layer is full attention


def architecture_name(config: Config, where: str = "config.json") -> str:
    """Return qwen35 or qwen35moe, by the class that config.json names.

    Raises:
        CheckpointError: another model's class.

    """
    names = config.get("architectures") or [config.get("model_type", "unknown")]
    for name in names:
        if name in CLASSES:
            return CLASSES[name]
    raise CheckpointError(
        f"{where}: architecture is {', '.join(map(str, names))}, not Qwen3.5; known are {', '.join(CLASSES)}"
    )


def text_config(config: Config) -> dict[str, Any]:
    """Return the text model's part of config.json, whether nested or flat."""
    return {**config, **(config.get("text_config") or {})}


def layer_kinds(layers: int, interval: int) -> tuple[LayerKind, ...]:
    """Return the usual pattern: every `interval`-th layer is full attention, the others are delta nets."""
    return tuple(FULL if (layer + 1) % interval == 0 else LINEAR for layer in range(layers))


def layer_kinds_of(text: Config, where: str = "") -> tuple[LayerKind, ...]:
    """Return the kind of each layer of the main model: `layer_types` of config.json, or the usual pattern.

    Raises:
        CheckpointError: `layer_types` has another number of entries than there are layers, or an unknown one.

    """
    layers = ConfigReader(text, where).size("num_hidden_layers")
    listed = text.get("layer_types")
    if not listed:
        return layer_kinds(layers, interval_of(text, where))
    if len(listed) != layers:
        raise _config_error(where, f"layer_types has {len(listed)} entries, expected num_hidden_layers = {layers}")
    unknown = sorted({str(kind) for kind in listed} - {LINEAR, FULL})
    if unknown:
        raise _config_error(where, f"layer_types has {unknown[0]!r}; known are {LINEAR} and {FULL}")
    return tuple(listed)


def interval_of(text: Config, where: str = "") -> int:
    """Return `full_attention_interval` of config.json. Raises CheckpointError if it is not a size."""
    return ConfigReader(text, where).size("full_attention_interval", DEFAULT_INTERVAL)


def _config_error(where: str, problem: str) -> CheckpointError:
    return CheckpointError(f"{where}: {problem}" if where else problem)


@dataclass(frozen=True)
class ConfigReader:
    """Numbers of one section of config.json; `where` and `prefix` are for messages."""

    section: Config
    where: str
    prefix: str = ""

    def size(self, key: str, default: int | None = None) -> int:
        """Return a positive number; the default counts where the entry is absent or null."""
        value = self.section.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise _config_error(self.where, f"{self.prefix}{key} is {value!r}, not a size")
        return value

    def count(self, key: str) -> int:
        """Return a number that may be 0 or absent."""
        return self.size(key) if self.section.get(key) else 0
