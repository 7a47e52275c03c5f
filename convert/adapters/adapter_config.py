"""adapter_config.json: what an adapter is, and by which factor its low-rank updates count.

Source: peft, `tuners/lora/config.py` (the keys), `tuners/lora/model.py` (`_create_and_replace`: how patterns
choose rank and alpha), `tuners/lora/layer.py` (`update_layer`: the scaling).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_gguf.errors import AdapterError
from qwen35_gguf.json_file import FLAG, NUMBER, SIZE, TEXT, JsonObject, map_of, printable, read_json, shown

FILE = "adapter_config.json"
MERGE_WITH_PEFT = "merge it with PEFT (merge_and_unload), save the model, and convert that"

# Keys that decide the weights, read here or by whoever reads the weights.
READ = frozenset((
    "peft_type", "base_model_name_or_path", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora",
    "use_dora", "init_lora_weights", "trainable_token_indices", "target_modules", "target_parameters",
    "modules_to_save", "bias", "lora_bias", "fan_in_fan_out",
))  # fmt: skip
# Keys about training, placement or bookkeeping: the weights of the file are complete without them. fan_in_fan_out is
# ignored by PEFT for nn.Linear, and Qwen3.5 has no other matrices.
HARMLESS = frozenset((
    "task_type", "auto_mapping", "revision", "inference_mode", "peft_version", "lora_dropout", "layers_to_transform",
    "layers_pattern", "exclude_modules", "megatron_config", "megatron_core", "runtime_config", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "ensure_weight_tying",
    "enable_lora", "merge_weights", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr", "unsloth_fixed",
))  # fmt: skip
# Keys that change the mathematics in a way that a merge cannot express.
REFUSED = {
    "alora_invocation_tokens": "an activated LoRA acts only behind its invocation tokens",
    "invocation_string": "an activated LoRA acts only behind its invocation tokens",
    "layer_replication": "it repeats layers of the base",
    "use_qalora": "QA-LoRA pools the input",
    "use_bdlora": "its factors are block-diagonal",
    "arrow_config": "it routes between adapters",
    "kasa_config": "KaSA changes the base",
    "monteclora_config": "its weights are sampled",
}
# Initializations that take something out of the base. The saved factors fit that residual, not the published base.
OF_RESIDUAL = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Of a pattern: usual ones are names, with numbers of layers.
LONGEST_PATTERN, MOST_REPETITIONS = 1000, 5
_REPETITION = re.compile(r"(?<!\\)[*+{]")
_SLOW = re.compile(r"\)[*+{]|\\[1-9]")  # a repeated group, or a reference to one
OF_BASE = ("gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA's configuration.

    Attributes:
        where: the file, for messages.
        base: the name or path of the model that it was trained on; "" if unknown.
        rank: of modules that no pattern names.
        alpha: of modules that no pattern names.
        rank_pattern: ranks by regular expression of the module's name.
        alpha_pattern: alphas by regular expression of the module's name.
        rank_stabilized: rsLoRA: alpha is divided by the root of the rank.
        decomposed: DoRA: the rows have learned magnitudes.
        tokens: rows of the embedding that were trained, by module name; "" is the embedding.

    """

    where: str
    base: str
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilized: bool
    decomposed: bool
    tokens: Mapping[str, tuple[int, ...]]

    def rank_of(self, module: str) -> int:
        """Return the rank of a module, whose name has no adapter's prefix."""
        return self.rank_pattern.get(_pattern_of(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor of `B @ A` of a module."""
        rank = self.rank_of(module)
        alpha = self.alpha_pattern.get(_pattern_of(self.alpha_pattern, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_config(folder: Path) -> AdapterConfig:
    """Read the configuration of an adapter.

    Raises:
        AdapterError: it is missing or malformed, not of a LoRA, or has a key that is unknown or cannot be merged.

    """
    config = read_json(folder / FILE, error=AdapterError)
    kind = config.get("peft_type", TEXT, "LORA").upper()
    if kind != "LORA":
        raise AdapterError(
            f"{config.where}: peft_type is {kind}; only LORA is supported (with rsLoRA, DoRA, modules_to_save): "
            f"{MERGE_WITH_PEFT}"
        )
    _check_keys(config)
    _check_initialization(config)
    patterns = config.get("rank_pattern", map_of(SIZE), {}), config.get("alpha_pattern", map_of(NUMBER), {})
    for pattern in (*patterns[0], *patterns[1]):
        _check_pattern(pattern, config.where)
    return AdapterConfig(
        where=config.where,
        base=config.get("base_model_name_or_path", TEXT, ""),
        rank=config.get("r", SIZE, 8),
        alpha=config.get("lora_alpha", NUMBER, 8),
        rank_pattern=patterns[0],
        alpha_pattern=patterns[1],
        rank_stabilized=config.get("use_rslora", FLAG, False),
        decomposed=config.get("use_dora", FLAG, False),
        tokens=_tokens(config),
    )


def _check_pattern(pattern: str, where: str) -> None:
    """Refuse what is not a regular expression, and one whose search could take forever: a repetition in another one.

    Raises:
        AdapterError: with the reason.

    """
    try:
        re.compile(_at_the_end(pattern))
    except (re.error, RecursionError, OverflowError) as error:
        raise AdapterError(f"{where}: the pattern {printable(pattern)} is not a regular expression ({error})") from None
    if len(pattern) > LONGEST_PATTERN or _SLOW.search(pattern) or len(_REPETITION.findall(pattern)) > MOST_REPETITIONS:
        raise AdapterError(
            f"{where}: the pattern {printable(pattern)} may take forever; name modules without repeated groups"
        )


def _at_the_end(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _check_keys(config: JsonObject) -> None:
    for key, value in config.values.items():
        if key in READ or key in HARMLESS or not value:
            continue
        if key in REFUSED:
            raise AdapterError(f"{config.where}: {key} is {shown(value)}: {REFUSED[key]}; use the adapter with PEFT")
        raise AdapterError(
            f"{config.where}: {key} is {shown(value)}, which is not known and may change the weights; "
            f"remove the key if it does not, else {MERGE_WITH_PEFT}"
        )


def _check_initialization(config: JsonObject) -> None:
    """Refuse factors that belong to a residual of the base; PEFT saves them as a plain LoRA if it is asked to."""
    start = config.values.get("init_lora_weights")
    if start is None or isinstance(start, bool):
        return
    name = str(start).lower()
    if name.startswith(OF_RESIDUAL):
        raise AdapterError(
            f"{config.where}: init_lora_weights is {shown(start)}: the factors belong to a base that the "
            "initialization changed; save with path_initial_model_for_weight_conversion, which makes a plain LoRA, "
            f"or {MERGE_WITH_PEFT}"
        )
    if name not in OF_BASE:
        raise AdapterError(
            f"{config.where}: init_lora_weights is {shown(start)}, which is not known; must be true, false or one of "
            f"{', '.join(OF_BASE)}"
        )


def _tokens(config: JsonObject) -> dict[str, tuple[int, ...]]:
    given: Any = config.values.get("trainable_token_indices")
    if given is None:
        return {}
    named = given if isinstance(given, dict) else {"": given}
    for rows in named.values():
        if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
            raise config.mistake("trainable_token_indices", "a list of token ids, or an object of such lists")
        if len(set(rows)) != len(rows):
            raise config.mistake("trainable_token_indices", "a list without repetitions")
    return {str(module): tuple(rows) for module, rows in named.items()}


def _pattern_of(patterns: Mapping[str, object], module: str) -> str:
    """Return the first pattern that matches the end of a module's name, or the name."""
    return next((pattern for pattern in patterns if re.match(_at_the_end(pattern), module)), module)
