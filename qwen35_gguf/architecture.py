"""The hyper-parameters of a Qwen3.5 model: ONE description, read from config.json or from the metadata of a GGUF file.

Everything that depends on the shape of a model (the tensor map, the quantization presets, the memory plan, lint) reads
it here. Names follow config.json without `num_`. Sizes count elements unless they say otherwise.

Sources: transformers configuration_qwen3_5.py and configuration_qwen3_5_moe.py; llama.cpp src/models/qwen35.cpp and
qwen35moe.cpp (load_arch_hparams), tools/mtmd/clip.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qwen35_gguf.errors import CheckpointError, ModelError

LayerKind = Literal["linear_attention", "full_attention"]
Config = Mapping[str, Any]
Shape = tuple[int, ...]

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


@dataclass(frozen=True)
class Experts:
    """The feed-forward networks of a mixture of experts.

    Attributes:
        count: routed experts of each layer.
        used: routed experts that a token is sent to.
        intermediate_size: width of one routed expert.
        shared_intermediate_size: width of the shared expert, 0 without one.

    """

    count: int
    used: int
    intermediate_size: int
    shared_intermediate_size: int


@dataclass(frozen=True)
class VisionEncoder:
    """The vision encoder and its projector, which are stored in the mmproj file.

    Attributes:
        depth: blocks.
        hidden_size: width of the blocks.
        intermediate_size: width of the feed-forward networks.
        heads: attention heads; hidden_size / heads is the size of one.
        out_hidden_size: width of what the projector returns: the text model's hidden_size.
        patch_size: side of a square patch, in pixels.
        temporal_patch_size: frames that one patch covers.
        spatial_merge_size: patches per side that the projector merges into one token.
        position_embeddings: learned positions, a square grid.
        in_channels: color channels of a pixel.

    """

    depth: int
    hidden_size: int
    intermediate_size: int
    heads: int
    out_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    position_embeddings: int
    in_channels: int = 3

    @property
    def merged_size(self) -> int:
        """Width of the projector's input: the patches of one token, side by side."""
        return self.hidden_size * self.spatial_merge_size**2

    @property
    def grid_size(self) -> int:
        """Learned positions per side of the grid."""
        return math.isqrt(self.position_embeddings)

    @classmethod
    def from_config(cls, config: Config, where: str = "config.json") -> VisionEncoder | None:
        """Read `vision_config` of a parsed config.json; None if there is none.

        Raises:
            CheckpointError: an entry is missing or not a size.

        """
        section = config.get("vision_config")
        if section is None:
            return None
        read = _ConfigReader(section, where, "vision_config.")
        return cls(
            depth=read.size("depth"),
            hidden_size=read.size("hidden_size"),
            intermediate_size=read.size("intermediate_size"),
            heads=read.size("num_heads"),
            out_hidden_size=read.size("out_hidden_size"),
            patch_size=read.size("patch_size"),
            temporal_patch_size=read.size("temporal_patch_size"),
            spatial_merge_size=read.size("spatial_merge_size"),
            position_embeddings=read.size("num_position_embeddings"),
            in_channels=read.size("in_channels", 3),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], where: str = "the mmproj file") -> VisionEncoder:
        """Read the metadata of an mmproj file, whose `general.architecture` is clip.

        Raises:
            ModelError: it is not an mmproj file, or an entry is missing or not a size.

        """
        if metadata.get("general.architecture") != "clip":
            raise ModelError(f"{where}: is not an mmproj file; name the file that was converted with the model")
        read = _GgufReader(metadata, where, "clip.vision.")
        patch = read.size("patch_size")
        return cls(
            depth=read.size("block_count"),
            hidden_size=read.size("embedding_length"),
            intermediate_size=read.size("feed_forward_length"),
            heads=read.size("attention.head_count"),
            out_hidden_size=read.size("projection_dim"),
            patch_size=patch,
            temporal_patch_size=2,  # of every Qwen3.5; the format has no key for it
            spatial_merge_size=read.count("spatial_merge_size", 2) or 2,
            position_embeddings=(read.size("image_size") // patch) ** 2,
        )


@dataclass(frozen=True)
class Architecture:
    """A text model: `layers` of the main model, then the blocks of the MTP head.

    Attributes:
        name: `general.architecture` of its GGUF: qwen35, or qwen35moe with experts.
        layer_kinds: for each layer of the main model, whether it is a gated delta net or full attention.
        mtp_blocks: blocks of the MTP head, 0 without one; they are full attention.
        full_attention_interval: distance between full-attention layers in the usual pattern.
        vocab_size: rows of the embedding; 0 if a GGUF was read without its tensors.
        tied: the embedding is also the output matrix.
        context_length: tokens that the model was trained for.
        hidden_size: width of the residual stream.
        intermediate_size: width of the dense feed-forward network; 0 with experts.
        heads: query heads of a full-attention layer.
        kv_heads: key-value heads of a full-attention layer.
        head_dim: size of a head of full attention.
        linear_key_heads: key heads of a delta net.
        linear_value_heads: value heads of a delta net, a multiple of `linear_key_heads`.
        linear_key_head_dim: size of a key head of a delta net.
        linear_value_head_dim: size of a value head of a delta net.
        conv_kernel_size: tokens that the convolution of a delta net sees.
        experts: None in a dense model.

    """

    name: str
    layer_kinds: tuple[LayerKind, ...]
    mtp_blocks: int
    full_attention_interval: int
    vocab_size: int
    tied: bool
    context_length: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    linear_key_heads: int
    linear_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    conv_kernel_size: int
    experts: Experts | None = None

    @property
    def layers(self) -> int:
        """Layers of the main model, without the MTP head."""
        return len(self.layer_kinds)

    @property
    def blocks(self) -> int:
        """All blocks: `block_count` of a GGUF, which includes those of the MTP head."""
        return self.layers + self.mtp_blocks

    @property
    def recurrent(self) -> tuple[bool, ...]:
        """For each block, MTP included, whether it keeps a recurrent state instead of a KV cache."""
        return (*(kind == LINEAR for kind in self.layer_kinds), *[False] * self.mtp_blocks)

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all keys of one token in one layer, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def linear_key_size(self) -> int:
        """Width of all key heads of a delta net together."""
        return self.linear_key_heads * self.linear_key_head_dim

    @property
    def linear_value_size(self) -> int:
        """Width of all value heads of a delta net together."""
        return self.linear_value_heads * self.linear_value_head_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the convolution of a delta net: queries, keys and values."""
        return 2 * self.linear_key_size + self.linear_value_size

    @property
    def value_heads_per_key_head(self) -> int:
        """Value heads of a delta net that share a key head."""
        return self.linear_value_heads // self.linear_key_heads

    @property
    def state_size(self) -> int:
        """Elements of the recurrent state of one delta net, (value heads, value head size, key head size)."""
        return self.linear_value_size * self.linear_key_head_dim

    @property
    def conv_state_size(self) -> int:
        """Elements that the convolution of one delta net keeps, (kernel size - 1, channels)."""
        return (self.conv_kernel_size - 1) * self.conv_channels

    @classmethod
    def from_config(cls, config: Config, where: str = "config.json") -> Architecture:
        """Read a parsed config.json, nested (`text_config`) or flat.

        `mtp_blocks` and `tied` are what config.json claims; what a checkpoint contains decides, so that callers that
        see its tensors replace them.

        Args:
            config: the parsed file.
            where: its path, for messages.

        Raises:
            CheckpointError: not Qwen3.5, or an entry is missing, not a size, or contradicts another.

        """
        name = architecture_name(config, where)
        text = text_config(config)
        read = _ConfigReader(text, where)
        hidden, heads = read.size("hidden_size"), read.size("num_attention_heads")
        key_heads, value_heads = read.size("linear_num_key_heads"), read.size("linear_num_value_heads")
        if value_heads % key_heads:
            raise CheckpointError(
                f"{where}: linear_num_value_heads {value_heads} is not a multiple of linear_num_key_heads {key_heads}"
            )
        experts = None
        if name == MOE:
            experts = Experts(
                count=read.size("num_experts"),
                used=read.count("num_experts_per_tok"),
                intermediate_size=read.size("moe_intermediate_size"),
                shared_intermediate_size=read.size("shared_expert_intermediate_size"),
            )
        return cls(
            name=name,
            layer_kinds=layer_kinds_of(text, where),
            mtp_blocks=read.count("mtp_num_hidden_layers"),
            full_attention_interval=interval_of(text, where),
            vocab_size=read.size("vocab_size"),
            tied=bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
            context_length=read.count("max_position_embeddings"),
            hidden_size=hidden,
            intermediate_size=0 if experts else read.size("intermediate_size"),
            heads=heads,
            kv_heads=read.size("num_key_value_heads"),
            head_dim=read.size("head_dim", hidden // heads),
            linear_key_heads=key_heads,
            linear_value_heads=value_heads,
            linear_key_head_dim=read.size("linear_key_head_dim"),
            linear_value_head_dim=read.size("linear_value_head_dim"),
            conv_kernel_size=read.size("linear_conv_kernel_dim"),
            experts=experts,
        )

    @classmethod
    def from_gguf(
        cls, metadata: Mapping[str, Any], shapes: Mapping[str, Shape] | None = None, where: str = "the GGUF file"
    ) -> Architecture:
        """Read the metadata of a text model's GGUF.

        Args:
            metadata: value by key, as the file has them; arrays as sequences.
            shapes: the shapes of its tensors by name, the row length LAST; they tell `vocab_size` and `tied`, which
                metadata do not.
            where: the file, for messages.

        Raises:
            ModelError: not Qwen3.5, or an entry is missing, not a count, or contradicts another.

        """
        name = metadata.get("general.architecture", "unknown")
        if name not in (DENSE, MOE):
            raise ModelError(f"{where}: is a GGUF of {name}, not of Qwen3.5; name the text model's file")
        read = _GgufReader(metadata, where, f"{name}.")
        blocks, mtp_blocks = read.size("block_count"), read.count("nextn_predict_layers", 0)
        layers = blocks - mtp_blocks
        if layers < 1:
            raise ModelError(
                f"{where}: {name}.block_count is {blocks}, but nextn_predict_layers is {mtp_blocks}; "
                "convert or download it again"
            )
        value_heads, inner = read.size("ssm.time_step_rank"), read.size("ssm.inner_size")
        if inner % value_heads:
            raise ModelError(
                f"{where}: {name}.ssm.inner_size is {inner}, not a multiple of ssm.time_step_rank {value_heads}; "
                "convert or download it again"
            )
        count = read.count("expert_count", 0)
        experts = None
        if count:
            experts = Experts(
                count=count,
                used=read.count("expert_used_count"),
                intermediate_size=read.size("expert_feed_forward_length"),
                shared_intermediate_size=read.count("expert_shared_feed_forward_length", 0),
            )
        interval = max(1, read.count("full_attention_interval", DEFAULT_INTERVAL))
        recurrent = metadata.get(f"{name}.attention.recurrent_layers")
        if not isinstance(recurrent, Sequence):
            kinds = layer_kinds(layers, interval)
        elif len(recurrent) >= layers:
            kinds = tuple(LINEAR if flag else FULL for flag in recurrent[:layers])
        else:
            raise ModelError(
                f"{where}: {name}.attention.recurrent_layers has {len(recurrent)} entries for {layers} layers; "
                "convert or download it again"
            )
        known = shapes or {}
        return cls(
            name=name,
            layer_kinds=kinds,
            mtp_blocks=mtp_blocks,
            full_attention_interval=interval,
            vocab_size=known.get("token_embd.weight", (0,))[0],
            tied="output.weight" not in known,
            context_length=read.count("context_length", 0),
            hidden_size=read.size("embedding_length"),
            intermediate_size=0 if experts else read.size("feed_forward_length"),
            heads=read.size("attention.head_count"),
            kv_heads=read.size("attention.head_count_kv"),
            head_dim=read.size("attention.key_length"),
            linear_key_heads=read.size("ssm.group_count"),
            linear_value_heads=value_heads,
            linear_key_head_dim=read.size("ssm.state_size"),
            linear_value_head_dim=inner // value_heads,
            conv_kernel_size=read.size("ssm.conv_kernel"),
            experts=experts,
        )


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
    layers = _ConfigReader(text, where).size("num_hidden_layers")
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
    return _ConfigReader(text, where).size("full_attention_interval", DEFAULT_INTERVAL)


def _config_error(where: str, problem: str) -> CheckpointError:
    return CheckpointError(f"{where}: {problem}" if where else problem)


@dataclass(frozen=True)
class _ConfigReader:
    """Numbers of one section of config.json; a default counts where the entry is absent or null."""

    section: Config
    where: str
    prefix: str = ""

    def size(self, key: str, default: int | None = None) -> int:
        value = self.section.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise _config_error(self.where, f"{self.prefix}{key} is {value!r}, not a size")
        return value

    def count(self, key: str) -> int:
        return self.size(key) if self.section.get(key) else 0


@dataclass(frozen=True)
class _GgufReader:
    """Numbers of a GGUF's metadata; of a list with one value for each layer, the largest."""

    metadata: Mapping[str, Any]
    where: str
    prefix: str

    def count(self, key: str, default: int | None = None) -> int:
        value = self.metadata.get(self.prefix + key, default)
        if value is None:
            raise ModelError(f"{self.where}: has no {self.prefix}{key}; make it again with `qwen35 convert`")
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            value = max(value)  # 0 for the layers without
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"{self.where}: {self.prefix}{key} is {value!r}, not a count; convert it again")
        return value

    def size(self, key: str) -> int:
        value = self.count(key)
        if not value:
            raise ModelError(f"{self.where}: {self.prefix}{key} is 0; convert or download it again")
        return value
