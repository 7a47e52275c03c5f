"""ONE declarative table: every GGUF tensor <- the checkpoint tensor it comes from, its shape, its operations.

The table is walked from the output side. `tensor_plan` resolves it against a checkpoint and enforces its invariants;
`expected_shapes` derives from it which tensors a GGUF file must have. To map another tensor, add a `Rule` to a group.

Source names are canonical (`checkpoint.canonical_name`); {L} is the GGUF block, {l} the layer inside its stack, {e} an
expert. A source may be split into parts, which together must cover it. Shapes are in the names of `dimensions`,
operations in those of `transforms.operation_table` and `vision_operation_table`.

GGUF side: llama.cpp src/models/qwen35.cpp, qwen35moe.cpp and tools/mtmd/models/qwen3vl.cpp.
Checkpoint side: transformers modeling_qwen3_5.py, modeling_qwen3_5_moe.py; `mtp.*` as published.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType

from qwen35_gguf.architecture import FULL, MOE, Architecture, VisionEncoder
from qwen35_gguf.convert.transforms import operation_table, vision_operation_table

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
F32 = GGMLQuantizationType.F32


@dataclass(frozen=True)
class Part:
    """One of `count` equal slices of `axis`; with `drop` the slices are single entries and the axis disappears."""

    axis: int
    index: int
    count: int
    drop: bool = False

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of this part of a tensor of `shape`."""
        kept = () if self.drop else (shape[self.axis] // self.count,)
        return (*shape[: self.axis], *kept, *shape[self.axis + 1 :])

    def take(self, x: Array) -> Array:
        """Return this part of `x` as a view."""
        part: Array = np.split(x, self.count, axis=self.axis)[self.index]
        return part.squeeze(self.axis) if self.drop else part


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        gguf: the name of the GGUF tensor.
        source: the name of the checkpoint tensor.
        shape: of the source, the row length last, in names of `dimensions`.
        operations: from the source, or its part, to the GGUF tensor, in order.
        fixed: the type of the GGUF tensor whatever the quantization preset.
        part: of the source, None for all of it.
        per_expert: name and shape of the sources in a checkpoint with one tensor per expert.

    """

    gguf: str
    source: str
    shape: tuple[str, ...]
    operations: tuple[str, ...] = ()
    fixed: GGMLQuantizationType | None = None
    part: Part | None = None
    per_expert: tuple[str, tuple[str, ...]] | None = None


HALF = (Part(1, 0, 2), Part(1, 1, 2))
FRAME = (Part(2, 0, 2, drop=True), Part(2, 1, 2, drop=True))

MODEL = (
    Rule("token_embd.weight", "embed_tokens.weight", ("vocab", "hidden")),
    Rule("output_norm.weight", "norm.weight", ("hidden",), ("plus_one",), F32),
)
OUTPUT = (Rule("output.weight", "lm_head.weight", ("vocab", "hidden")),)

NORMS = (
    Rule("blk.{L}.attn_norm.weight", "layers.{l}.input_layernorm.weight", ("hidden",), ("plus_one",), F32),
    Rule(
        "blk.{L}.post_attention_norm.weight",
        "layers.{l}.post_attention_layernorm.weight",
        ("hidden",),
        ("plus_one",),
        F32,
    ),
)
DELTA_NET = (
    Rule("blk.{L}.attn_qkv.weight", "layers.{l}.linear_attn.in_proj_qkv.weight", ("conv", "hidden"), ("v_after_qk",)),
    Rule("blk.{L}.attn_gate.weight", "layers.{l}.linear_attn.in_proj_z.weight", ("value", "hidden"), ("v_rows",)),
    Rule("blk.{L}.ssm_alpha.weight", "layers.{l}.linear_attn.in_proj_a.weight", ("v_heads", "hidden"), ("v_heads",)),
    Rule("blk.{L}.ssm_beta.weight", "layers.{l}.linear_attn.in_proj_b.weight", ("v_heads", "hidden"), ("v_heads",)),
    Rule("blk.{L}.ssm_a", "layers.{l}.linear_attn.A_log", ("v_heads",), ("neg_exp", "v_heads"), F32),
    Rule("blk.{L}.ssm_dt.bias", "layers.{l}.linear_attn.dt_bias", ("v_heads",), ("v_heads",), F32),
    Rule(
        "blk.{L}.ssm_conv1d.weight",
        "layers.{l}.linear_attn.conv1d.weight",
        ("conv", "1", "kernel"),
        ("squeeze", "v_after_qk"),
        F32,
    ),
    # The gated norm after the delta rule multiplies by w itself: no +1.
    Rule("blk.{L}.ssm_norm.weight", "layers.{l}.linear_attn.norm.weight", ("v_dim",), (), F32),
    Rule("blk.{L}.ssm_out.weight", "layers.{l}.linear_attn.out_proj.weight", ("hidden", "value"), ("v_columns",)),
)
ATTENTION = (
    # Query and output gate interleaved by head, as llama.cpp reads them.
    Rule("blk.{L}.attn_q.weight", "layers.{l}.self_attn.q_proj.weight", ("query_gate", "hidden")),
    Rule("blk.{L}.attn_k.weight", "layers.{l}.self_attn.k_proj.weight", ("kv", "hidden")),
    Rule("blk.{L}.attn_v.weight", "layers.{l}.self_attn.v_proj.weight", ("kv", "hidden")),
    Rule("blk.{L}.attn_output.weight", "layers.{l}.self_attn.o_proj.weight", ("hidden", "query")),
    Rule("blk.{L}.attn_q_norm.weight", "layers.{l}.self_attn.q_norm.weight", ("head_dim",), ("plus_one",), F32),
    Rule("blk.{L}.attn_k_norm.weight", "layers.{l}.self_attn.k_norm.weight", ("head_dim",), ("plus_one",), F32),
)
DENSE = (
    Rule("blk.{L}.ffn_gate.weight", "layers.{l}.mlp.gate_proj.weight", ("ffn", "hidden")),
    Rule("blk.{L}.ffn_up.weight", "layers.{l}.mlp.up_proj.weight", ("ffn", "hidden")),
    Rule("blk.{L}.ffn_down.weight", "layers.{l}.mlp.down_proj.weight", ("hidden", "ffn")),
)
EXPERTS = (
    Rule("blk.{L}.ffn_gate_inp.weight", "layers.{l}.mlp.gate.weight", ("experts", "hidden"), (), F32),
    Rule(
        "blk.{L}.ffn_gate_exps.weight",
        "layers.{l}.mlp.experts.gate_up_proj",
        ("experts", "gate_up", "hidden"),
        part=HALF[0],
        per_expert=("layers.{l}.mlp.experts.{e}.gate_proj.weight", ("expert_ffn", "hidden")),
    ),
    Rule(
        "blk.{L}.ffn_up_exps.weight",
        "layers.{l}.mlp.experts.gate_up_proj",
        ("experts", "gate_up", "hidden"),
        part=HALF[1],
        per_expert=("layers.{l}.mlp.experts.{e}.up_proj.weight", ("expert_ffn", "hidden")),
    ),
    Rule(
        "blk.{L}.ffn_down_exps.weight",
        "layers.{l}.mlp.experts.down_proj",
        ("experts", "hidden", "expert_ffn"),
        per_expert=("layers.{l}.mlp.experts.{e}.down_proj.weight", ("hidden", "expert_ffn")),
    ),
    Rule("blk.{L}.ffn_gate_inp_shexp.weight", "layers.{l}.mlp.shared_expert_gate.weight", ("1", "hidden"), (), F32),
    Rule("blk.{L}.ffn_gate_shexp.weight", "layers.{l}.mlp.shared_expert.gate_proj.weight", ("shared_ffn", "hidden")),
    Rule("blk.{L}.ffn_up_shexp.weight", "layers.{l}.mlp.shared_expert.up_proj.weight", ("shared_ffn", "hidden")),
    Rule("blk.{L}.ffn_down_shexp.weight", "layers.{l}.mlp.shared_expert.down_proj.weight", ("hidden", "shared_ffn")),
)
# Once a model, in the first MTP block; the block itself is a full-attention layer under `mtp.`.
MTP = (
    Rule("blk.{L}.nextn.eh_proj.weight", "mtp.fc.weight", ("hidden", "two_hidden")),
    Rule("blk.{L}.nextn.enorm.weight", "mtp.pre_fc_norm_embedding.weight", ("hidden",), ("plus_one",), F32),
    Rule("blk.{L}.nextn.hnorm.weight", "mtp.pre_fc_norm_hidden.weight", ("hidden",), ("plus_one",), F32),
    Rule("blk.{L}.nextn.shared_head_norm.weight", "mtp.norm.weight", ("hidden",), ("plus_one",), F32),
)

VISION = (
    Rule(
        "v.patch_embd.weight",
        "visual.patch_embed.proj.weight",
        ("vision", "channels", "frames", "patch", "patch"),
        fixed=F32,
        part=FRAME[0],
    ),
    Rule(
        "v.patch_embd.weight.1",
        "visual.patch_embed.proj.weight",
        ("vision", "channels", "frames", "patch", "patch"),
        fixed=F32,
        part=FRAME[1],
    ),
    Rule("v.patch_embd.bias", "visual.patch_embed.proj.bias", ("vision",), (), F32),
    Rule("v.position_embd.weight", "visual.pos_embed.weight", ("positions", "vision"), (), F32),
    Rule("v.post_ln.weight", "visual.merger.norm.weight", ("vision",), (), F32),
    Rule("v.post_ln.bias", "visual.merger.norm.bias", ("vision",), (), F32),
    Rule("mm.0.weight", "visual.merger.linear_fc1.weight", ("merged", "merged")),
    Rule("mm.0.bias", "visual.merger.linear_fc1.bias", ("merged",), (), F32),
    Rule("mm.2.weight", "visual.merger.linear_fc2.weight", ("vision_out", "merged")),
    Rule("mm.2.bias", "visual.merger.linear_fc2.bias", ("vision_out",), (), F32),
)
VISION_BLOCK = (
    Rule("v.blk.{L}.ln1.weight", "visual.blocks.{l}.norm1.weight", ("vision",), (), F32),
    Rule("v.blk.{L}.ln1.bias", "visual.blocks.{l}.norm1.bias", ("vision",), (), F32),
    Rule("v.blk.{L}.attn_qkv.weight", "visual.blocks.{l}.attn.qkv.weight", ("vision_qkv", "vision")),
    Rule("v.blk.{L}.attn_qkv.bias", "visual.blocks.{l}.attn.qkv.bias", ("vision_qkv",), (), F32),
    Rule("v.blk.{L}.attn_out.weight", "visual.blocks.{l}.attn.proj.weight", ("vision", "vision")),
    Rule("v.blk.{L}.attn_out.bias", "visual.blocks.{l}.attn.proj.bias", ("vision",), (), F32),
    Rule("v.blk.{L}.ln2.weight", "visual.blocks.{l}.norm2.weight", ("vision",), (), F32),
    Rule("v.blk.{L}.ln2.bias", "visual.blocks.{l}.norm2.bias", ("vision",), (), F32),
    Rule("v.blk.{L}.ffn_up.weight", "visual.blocks.{l}.mlp.linear_fc1.weight", ("vision_ffn", "vision"), ("pad_rows",)),
    Rule("v.blk.{L}.ffn_up.bias", "visual.blocks.{l}.mlp.linear_fc1.bias", ("vision_ffn",), ("pad_rows",), F32),
    Rule(
        "v.blk.{L}.ffn_down.weight",
        "visual.blocks.{l}.mlp.linear_fc2.weight",
        ("vision", "vision_ffn"),
        ("pad_columns",),
    ),
    Rule("v.blk.{L}.ffn_down.bias", "visual.blocks.{l}.mlp.linear_fc2.bias", ("vision",), (), F32),
)

# Buffers that some exports save; llama.cpp computes them itself.
IGNORED = ((re.compile(r"(^|\.)rotary_(pos_)?emb\.inv_freq$"), "rotary frequencies are computed from the metadata"),)


class BoundRule(NamedTuple):
    """A rule with the numbers of its block filled in."""

    rule: Rule
    gguf: str
    source: str


def text_rules(architecture: Architecture) -> Iterator[BoundRule]:
    """Yield the rules of a text model, in the order of its GGUF: the main model, then the MTP head."""
    feed_forward = EXPERTS if architecture.name == MOE else DENSE
    layers = architecture.layers
    yield from _bind(MODEL)
    if not architecture.tied:
        yield from _bind(OUTPUT)
    for layer, kind in enumerate(architecture.layer_kinds):
        yield from _bind(NORMS + (ATTENTION if kind == FULL else DELTA_NET) + feed_forward, layer, layer)
    for layer in range(architecture.mtp_blocks):
        yield from _bind(NORMS + ATTENTION + feed_forward, layers + layer, layer, prefix="mtp.")
    if architecture.mtp_blocks:
        yield from _bind(MTP, layers)


def vision_rules(encoder: VisionEncoder) -> Iterator[BoundRule]:
    """Yield the rules of a vision encoder, in the order of its GGUF."""
    yield from _bind(VISION)
    for block in range(encoder.depth):
        yield from _bind(VISION_BLOCK, block, block)


def _bind(rules: Iterable[Rule], block: int = 0, layer: int = 0, prefix: str = "") -> Iterator[BoundRule]:
    for rule in rules:
        gguf, source = rule.gguf.replace("{L}", str(block)), rule.source.replace("{l}", str(layer))
        yield BoundRule(rule, gguf, prefix + source)


def dimensions(architecture: Architecture) -> dict[str, int]:
    """Name every dimension that the shapes of a text model use."""
    a, experts = architecture, architecture.experts
    named = {
        "1": 1,
        "vocab": a.vocab_size,
        "hidden": a.hidden_size,
        "two_hidden": 2 * a.hidden_size,
        "head_dim": a.head_dim,
        "query": a.query_size,
        "query_gate": 2 * a.query_size,
        "kv": a.kv_size,
        "v_heads": a.linear_value_heads,
        "v_dim": a.linear_value_head_dim,
        "value": a.linear_value_size,
        "conv": a.conv_channels,
        "kernel": a.conv_kernel_size,
        "ffn": a.intermediate_size,
    }
    if experts:
        named |= {"experts": experts.count, "expert_ffn": experts.intermediate_size}
        named |= {"gate_up": 2 * experts.intermediate_size, "shared_ffn": experts.shared_intermediate_size}
    return named


def vision_dimensions(encoder: VisionEncoder) -> dict[str, int]:
    """Name every dimension that the shapes of a vision encoder use."""
    return {
        "vision": encoder.hidden_size,
        "vision_qkv": 3 * encoder.hidden_size,
        "vision_ffn": encoder.intermediate_size,
        "vision_out": encoder.out_hidden_size,
        "merged": encoder.merged_size,
        "positions": encoder.position_embeddings,
        "channels": encoder.in_channels,
        "frames": encoder.temporal_patch_size,
        "patch": encoder.patch_size,
    }


def expected_shapes(model: Architecture | VisionEncoder) -> dict[str, Shape]:
    """Return the shape of every tensor that the GGUF of a model has, the row length last, by name."""
    if isinstance(model, Architecture):
        dims, rules, operations = dimensions(model), text_rules(model), operation_table(model)
    else:
        dims, rules = vision_dimensions(model), vision_rules(model)
        operations = vision_operation_table(model.intermediate_size)
    shapes = {}
    for rule, name, _ in rules:
        shape = tuple(dims[dimension] for dimension in rule.shape)
        shape = rule.part.shape(shape) if rule.part else shape
        for operation in (operation for named in rule.operations for operation in operations[named]):
            shape = operation.shape(shape)
        shapes[name] = shape
    return shapes
