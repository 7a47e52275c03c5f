"""The text model: the main model and its MTP head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.architecture.config import (
    DEFAULT_INTERVAL,
    DENSE,
    EXPERTS,
    FULL,
    LINEAR,
    MOE,
    MOST_LAYERS,
    Config,
    LayerKind,
    architecture_name,
    claims_tied,
    interval_of,
    layer_kinds,
    layer_kinds_of,
    text_section,
)
from qwen35_gguf.architecture.metadata import GgufReader
from qwen35_gguf.errors import ModelError
from qwen35_gguf.json_file import COUNT, SIZE, at_most

Shape = tuple[int, ...]


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
        """Total width of the query heads."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Total width of the keys of one token in one layer; the values are as wide."""
        return self.kv_heads * self.head_dim

    @property
    def linear_key_size(self) -> int:
        """Total width of the key heads of a delta net."""
        return self.linear_key_heads * self.linear_key_head_dim

    @property
    def linear_value_size(self) -> int:
        """Total width of the value heads of a delta net."""
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
        text = text_section(config, where)
        hidden, heads = text.need("hidden_size", SIZE), text.need("num_attention_heads", SIZE)
        kv_heads = text.need("num_key_value_heads", SIZE)
        key_heads, value_heads = text.need("linear_num_key_heads", SIZE), text.need("linear_num_value_heads", SIZE)
        if heads % kv_heads:
            raise text.mistake("num_attention_heads", f"a multiple of num_key_value_heads = {kv_heads}")
        if value_heads % key_heads:
            raise text.mistake("linear_num_value_heads", f"a multiple of linear_num_key_heads = {key_heads}")
        experts = None
        if name == MOE:
            count = text.need("num_experts", EXPERTS)
            experts = Experts(
                count=count,
                used=text.get("num_experts_per_tok", at_most(count, 0), 0),
                intermediate_size=text.need("moe_intermediate_size", SIZE),
                shared_intermediate_size=text.need("shared_expert_intermediate_size", SIZE),
            )
        return cls(
            name=name,
            layer_kinds=layer_kinds_of(text),
            mtp_blocks=text.get("mtp_num_hidden_layers", at_most(100, 0), 0),
            full_attention_interval=interval_of(text),
            vocab_size=text.need("vocab_size", SIZE),
            tied=claims_tied(config, where),
            context_length=text.get("max_position_embeddings", COUNT, 0),
            hidden_size=hidden,
            intermediate_size=0 if experts else text.need("intermediate_size", SIZE),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=text.get("head_dim", SIZE, hidden // heads),
            linear_key_heads=key_heads,
            linear_value_heads=value_heads,
            linear_key_head_dim=text.need("linear_key_head_dim", SIZE),
            linear_value_head_dim=text.need("linear_value_head_dim", SIZE),
            conv_kernel_size=text.need("linear_conv_kernel_dim", SIZE),
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
        read = GgufReader(metadata, where, f"{name}.")
        blocks, mtp_blocks = read.size("block_count", MOST_LAYERS), read.count("nextn_predict_layers", 0)
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
