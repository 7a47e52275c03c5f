"""Why the tensors of a checkpoint do not fit the tensor map: one line with what is missing, what is unknown, and why.

The reasons are a table: the first that applies is the likeliest. Names are canonical, but for those in `stored`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qwen35_gguf.convert.source_tensors.parts import MTP, OPTION, TITLE, VISION, Part, part_of

LORA = re.compile(r"\.lora_|\.adalora_|\.ia3_l|\.vera_|\.hada_w|\.lokr_w")
QUANTIZED = re.compile(
    r"\.(scales|biases|qweight|qzeros|g_idx|weight_packed|weight_scale(_2|_inv)?|input_scale|absmax|quant_map|SCB|_scale)$"
    r"|\.weight\.(absmax|quant_state\b.*|quant_map|nested_.*)$"
)
FLAT = re.compile(r"_flat_param")
LAYER = re.compile(r"^layers\.(\d+)\.")
HEADS = re.compile(r"^(v_head|score|classifier|reward_head|value_head|summary)\b")


@dataclass(frozen=True)
class Misfit:
    """What does not fit.

    Attributes:
        architecture: `qwen35` or `qwen35moe`.
        layers: of the main model, as config.json gives them.
        missing: (GGUF name, canonical name) of tensors that the map needs.
        unknown: canonical names that the map does not have.
        stored: the names as the files have them, by canonical name.

    """

    architecture: str
    layers: int
    missing: Sequence[tuple[str, str]]
    unknown: Sequence[str]
    stored: Mapping[str, str]

    def describe(self) -> str:
        """Return WHAT: why; what to do."""
        parts = []
        if self.missing:
            gguf, name = self.missing[0]
            parts.append(f"{len(self.missing)} tensors are missing, first {name} (for {gguf})")
        if self.unknown:
            first = self.stored[self.unknown[0]]
            parts.append(f"{len(self.unknown)} tensors are unknown to the {self.architecture} map, first {first}")
        return f"{' and '.join(parts)}; {self.reason()}"

    def reason(self) -> str:
        """Return the likeliest reason, and what to do."""
        return next(reason for find in REASONS if (reason := find(self)))


def _adapter(misfit: Misfit) -> str:
    if not (found := _first(misfit, LORA)):
        return ""
    return (
        f"{found} belongs to an adapter that was not merged; convert the base model and name the adapter with "
        "--adapter, or save the model after merge_and_unload()"
    )


def _flat_parameters(misfit: Misfit) -> str:
    if not _first(misfit, FLAT):
        return ""
    return "FSDP saved flattened parameters; save a full state dictionary (FullStateDictConfig) and convert that"


def _quantized(misfit: Misfit) -> str:
    if not (found := _first(misfit, QUANTIZED)):
        return ""
    return f"{found} belongs to quantized weights that config.json does not describe; restore its quantization_config"


def _prefixed(misfit: Misfit) -> str:
    """Find an unknown tensor whose name ends in one that is missing: the prefix is what is unknown."""
    wanted = {name for _, name in misfit.missing}
    for name in misfit.unknown:
        segments = name.split(".")
        for start in range(1, len(segments) - 1):
            if (own := ".".join(segments[start:])) in wanted:
                stored = misfit.stored[name]
                prefix = stored.removesuffix(own) if stored.endswith(own) else ".".join(segments[:start]) + "."
                return f"the names have the unknown prefix {prefix}; rename the tensors without it"
    return ""


def _experts(misfit: Misfit) -> str:
    moe = misfit.architecture == "qwen35moe"
    dense_found = any(re.search(r"^layers\.\d+\.mlp\.(gate|up|down)_proj\.", name) for name in misfit.unknown)
    experts_found = any(re.search(r"^layers\.\d+\.mlp\.(experts|shared_expert)", name) for name in misfit.unknown)
    if moe and dense_found:
        return "the weights are of a dense model, and config.json of a mixture of experts; use that of the weights"
    if not moe and experts_found:
        return "the weights are of a mixture of experts, and config.json of a dense model; use that of the weights"
    return ""


def _other_model(misfit: Misfit) -> str:
    if any("in_proj_qkvz" in name or "in_proj_ba" in name for name in misfit.unknown):
        return (
            "in_proj_qkvz and in_proj_ba are of Qwen3-Next, which is not Qwen3.5; convert it with llama.cpp's converter"
        )
    return ""


def _layer_kinds(misfit: Misfit) -> str:
    """Find a layer whose attention is missing in one kind and there in the other."""
    kinds = {"linear_attn": "self_attn", "self_attn": "linear_attn"}
    unknown = {".".join(name.split(".")[:3]) for name in misfit.unknown}
    for _, name in misfit.missing:
        layer, _, kind = ".".join(name.split(".")[:3]).rpartition(".")
        if kind in kinds and LAYER.match(name) and f"{layer}.{kinds[kind]}" in unknown:
            return (
                f"{layer} has {kinds[kind]} where config.json gives {kind}; correct layer_types or "
                "full_attention_interval"
            )
    return ""


def _layers(misfit: Misfit) -> str:
    beyond = [int(m[1]) for name in misfit.unknown if (m := LAYER.match(name)) and int(m[1]) >= misfit.layers]
    if beyond:
        return (
            f"the weights have {max(beyond) + 1} layers, and config.json says num_hidden_layers: {misfit.layers}; "
            "use the config.json of the weights"
        )
    absent = sorted({int(m[1]) for _, name in misfit.missing if (m := LAYER.match(name))})
    held = {int(m[1]) for name in misfit.stored if (m := LAYER.match(name))}
    if absent and not held.intersection(absent):
        return (
            f"the files have no tensor of {len(absent)} layers, first layers.{absent[0]}, of num_hidden_layers: "
            f"{misfit.layers}; a shard is missing, or config.json belongs to a larger model"
        )
    return ""


def _left_out(part: Part) -> Callable[[Misfit], str]:
    def find(misfit: Misfit) -> str:
        names = [name for _, name in misfit.missing] + list(misfit.unknown)
        if not names or any(part_of(name) != part for name in names):
            return ""
        return f"the {TITLE[part]} is incomplete or another; {OPTION[part]} leaves it out"

    return find


def _output(misfit: Misfit) -> str:
    missing = {name for _, name in misfit.missing}
    if missing == {"lm_head.weight"}:
        return (
            "config.json says tie_word_embeddings: false, and the weights were saved without their output matrix; "
            "save the whole ForCausalLM or ForConditionalGeneration model"
        )
    if missing == {"embed_tokens.weight"} and "lm_head.weight" in misfit.stored:
        return (
            "the weights have lm_head.weight, which is the embedding as well if config.json says "
            "tie_word_embeddings: true; correct it if they were tied"
        )
    return ""


def _heads(misfit: Misfit) -> str:
    if not misfit.missing and all(HEADS.match(name) for name in misfit.unknown):
        return "these belong to a reward or classification head, which GGUF has no place for; remove them"
    return ""


def _otherwise(misfit: Misfit) -> str:
    if not misfit.unknown:
        return "the checkpoint is incomplete or config.json belongs to another model"
    if not misfit.missing:
        return "this is not a plain Qwen3.5 checkpoint"
    return "the names are not those of Qwen3.5, or config.json belongs to another model"


def _first(misfit: Misfit, pattern: re.Pattern[str]) -> str:
    return next((misfit.stored[name] for name in misfit.unknown if pattern.search(name)), "")


REASONS: tuple[Callable[[Misfit], str], ...] = (
    _adapter,
    _flat_parameters,
    _quantized,
    _prefixed,
    _other_model,
    _experts,
    _layer_kinds,
    _layers,
    _left_out(MTP),
    _left_out(VISION),
    _output,
    _heads,
    _otherwise,
)
