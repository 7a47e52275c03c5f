"""ONE declarative table: every GGUF tensor <- the checkpoint tensor it comes from, its shape, its operations.

The table is walked from the output side. `plan` resolves it against a checkpoint and enforces its invariants, each
with an error that names both sides: every output is made exactly once, every source tensor is used completely or is
ignored for a stated reason, and every shape found is the shape that config.json promises.

Source names are canonical (`checkpoint.canonical_name`); {L} is the GGUF block, {l} the layer inside its stack, {e} an
expert. A source may be split into parts, which together must cover it.

GGUF side: llama.cpp src/models/qwen35.cpp, qwen35moe.cpp and tools/mtmd/models/qwen3vl.cpp.
Checkpoint side: transformers modeling_qwen3_5.py, modeling_qwen3_5_moe.py; `mtp.*` as published.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from qwen35_gguf.convert import transforms
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.transforms import Operation
from qwen35_gguf.errors import CheckpointError

Array = np.ndarray[Any, np.dtype[Any]]
Dims = Mapping[str, int]
F32 = GGMLQuantizationType.F32


@dataclass(frozen=True)
class Part:
    """One of `count` equal slices of `axis`; with `drop` the slices are single entries and the axis disappears."""

    axis: int
    index: int
    count: int
    drop: bool = False

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of this part of a tensor of `shape`."""
        kept = () if self.drop else (shape[self.axis] // self.count,)
        return (*shape[: self.axis], *kept, *shape[self.axis + 1 :])

    def take(self, x: Array) -> Array:
        """Return this part of `x` as a view."""
        part: Array = np.split(x, self.count, axis=self.axis)[self.index]
        return part.squeeze(self.axis) if self.drop else part


@dataclass(frozen=True)
class Rule:
    """One line of the table. `shape` is the source's, in names of `dimensions`; `floor` overrides any recipe."""

    gguf: str
    source: str
    shape: tuple[str, ...]
    operations: tuple[str, ...] = ()
    floor: GGMLQuantizationType | None = None
    part: Part | None = None
    per_expert: tuple[str, tuple[str, ...]] | None = None  # the same weights, one tensor an expert: name, shape


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
        floor=F32,
        part=FRAME[0],
    ),
    Rule(
        "v.patch_embd.weight.1",
        "visual.patch_embed.proj.weight",
        ("vision", "channels", "frames", "patch", "patch"),
        floor=F32,
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
    Rule("v.blk.{L}.ffn_up.weight", "visual.blocks.{l}.mlp.linear_fc1.weight", ("vision_ffn", "vision")),
    Rule("v.blk.{L}.ffn_up.bias", "visual.blocks.{l}.mlp.linear_fc1.bias", ("vision_ffn",), (), F32),
    Rule("v.blk.{L}.ffn_down.weight", "visual.blocks.{l}.mlp.linear_fc2.weight", ("vision", "vision_ffn")),
    Rule("v.blk.{L}.ffn_down.bias", "visual.blocks.{l}.mlp.linear_fc2.bias", ("vision",), (), F32),
)

# Buffers that some exports save; llama.cpp computes them itself.
IGNORED = ((re.compile(r"(^|\.)rotary_(pos_)?emb\.inv_freq$"), "rotary frequencies are computed from the metadata"),)


@dataclass(frozen=True)
class OutputTensor:
    """A resolved rule: a GGUF tensor, the checkpoint tensors (several only for experts) and the way between them."""

    name: str
    sources: tuple[str, ...]
    part: Part | None
    operations: tuple[Operation, ...]
    shape: tuple[int, ...]
    floor: GGMLQuantizationType | None

    def blocks(self, checkpoint: Checkpoint) -> Iterator[Array]:
        """Yield arrays whose rows, one after the other, are the tensor's rows: one array, or one an expert."""
        for source in self.sources:
            array = self.select(checkpoint.read(source))
            for operation in self.operations:
                array = operation.apply(array)
            yield array

    def select(self, array: Array) -> Array:
        """Return the part of a source that this output takes."""
        return self.part.take(array) if self.part else array

    def invert(self, array: Array) -> Array:
        """Undo the operations: from the GGUF tensor back to the selected source."""
        for operation in reversed(self.operations):
            array = operation.invert(array)
        return array


@dataclass(frozen=True)
class TensorPlan:
    """All outputs of a conversion, and how many MTP blocks the checkpoint really holds."""

    text: tuple[OutputTensor, ...]
    vision: tuple[OutputTensor, ...]
    mtp_blocks: int
    notes: tuple[str, ...]


def plan(checkpoint: Checkpoint, *, mtp: bool = True, vision: bool = True) -> TensorPlan:
    """Resolve the table against a checkpoint.

    Raises:
        CheckpointError: a tensor is missing, unknown, used twice or in part, or config.json promises another shape.

    """
    dims = dimensions(checkpoint)
    operations = operation_table(dims, norms_shifted=checkpoint.norms_shifted)
    notes = list(checkpoint.notes)
    mtp_blocks = _mtp_blocks(checkpoint, notes)
    has_vision = any(name.startswith("visual.") for name in checkpoint.tensors)
    layers = _layer_types(checkpoint, dims["layers"])

    text = list(_resolve(checkpoint, dims, operations, _text_rules(checkpoint, layers, mtp_blocks)))
    tower = list(_resolve(checkpoint, dims, operations, _vision_rules(dims))) if has_vision else []
    _check_coverage(checkpoint, [*text, *tower])
    if not mtp and mtp_blocks:
        text = [tensor for tensor in text if not tensor.sources[0].startswith("mtp.")]
        mtp_blocks = 0
    return TensorPlan(tuple(text), tuple(tower) if vision else (), mtp_blocks, tuple(notes))


def dimensions(checkpoint: Checkpoint) -> dict[str, int]:
    """Name every dimension that the table's shapes use. Raises CheckpointError for a missing config entry."""
    config = checkpoint.text_config

    def need(key: str, section: Mapping[str, Any] = config, where: str = "") -> int:
        value = section.get(key)
        if not isinstance(value, int) or value <= 0:
            raise CheckpointError(f"{checkpoint.directory / 'config.json'}: {where}{key} is {value!r}, not a size")
        return value

    hidden, heads = need("hidden_size"), need("num_attention_heads")
    head_dim = need("head_dim") if "head_dim" in config else hidden // heads
    k_heads, v_heads = need("linear_num_key_heads"), need("linear_num_value_heads")
    k_dim, v_dim = need("linear_key_head_dim"), need("linear_value_head_dim")
    if v_heads % k_heads:
        raise CheckpointError(
            f"{checkpoint.directory / 'config.json'}: linear_num_value_heads {v_heads} is no multiple of "
            f"linear_num_key_heads {k_heads}"
        )
    dims = {
        "1": 1,
        "layers": need("num_hidden_layers"),
        "vocab": need("vocab_size"),
        "hidden": hidden,
        "two_hidden": 2 * hidden,
        "head_dim": head_dim,
        "query": heads * head_dim,
        "query_gate": 2 * heads * head_dim,
        "kv": need("num_key_value_heads") * head_dim,
        "k_heads": k_heads,
        "v_heads": v_heads,
        "v_dim": v_dim,
        "key": k_heads * k_dim,
        "value": v_heads * v_dim,
        "conv": 2 * k_heads * k_dim + v_heads * v_dim,
        "kernel": need("linear_conv_kernel_dim"),
    }
    if checkpoint.arch == "qwen35moe":
        dims |= {"experts": need("num_experts"), "expert_ffn": need("moe_intermediate_size")}
        dims |= {"gate_up": 2 * dims["expert_ffn"], "shared_ffn": need("shared_expert_intermediate_size")}
    else:
        dims["ffn"] = need("intermediate_size")
    if (tower := checkpoint.config.get("vision_config")) is not None:
        where = "vision_config."
        width, merge = need("hidden_size", tower, where), need("spatial_merge_size", tower, where)
        dims |= {
            "vision_blocks": need("depth", tower, where),
            "vision": width,
            "vision_qkv": 3 * width,
            "vision_ffn": need("intermediate_size", tower, where),
            "vision_out": need("out_hidden_size", tower, where),
            "merged": width * merge * merge,
            "positions": need("num_position_embeddings", tower, where),
            "channels": int(tower.get("in_channels", 3)),
            "frames": need("temporal_patch_size", tower, where),
            "patch": need("patch_size", tower, where),
        }
    return dims


def operation_table(dims: Dims, *, norms_shifted: bool = False) -> dict[str, tuple[Operation, ...]]:
    """Bind the operation names of the table to one model's head counts; what is the identity binds to nothing."""
    k_heads, per_key = dims["k_heads"], dims["v_heads"] // dims["k_heads"]

    def tile(axis: int, head_dim: int, offset: int = 0) -> tuple[Operation, ...]:
        if per_key == 1 or k_heads == 1:
            return ()
        return (transforms.tile_value_heads(axis, k_heads, per_key, head_dim, offset),)

    return {
        "plus_one": () if norms_shifted else (transforms.plus_one,),
        "neg_exp": (transforms.neg_exp,),
        "squeeze": (transforms.squeeze,),
        "v_heads": tile(0, 1),
        "v_rows": tile(0, dims["v_dim"]),
        "v_after_qk": tile(0, dims["v_dim"], 2 * dims["key"]),
        "v_columns": tile(1, dims["v_dim"]),
    }


def _mtp_blocks(checkpoint: Checkpoint, notes: list[str]) -> int:
    """Count the MTP layers that are there; what config.json claims only earns a warning when it differs."""
    claimed = int(checkpoint.text_config.get("mtp_num_hidden_layers") or 0)
    layers = {int(m[1]) for name in checkpoint.tensors if (m := re.match(r"mtp\.layers\.(\d+)\.", name))}
    found = max(layers) + 1 if layers else 0
    if claimed and not found:
        notes.append(
            f"config.json says mtp_num_hidden_layers: {claimed}, but there are no mtp.* tensors: "
            "converting without multi-token prediction"
        )
    elif found != claimed:
        notes.append(f"config.json says mtp_num_hidden_layers: {claimed}, but {found} are there: converting with them")
    return found


def _layer_types(checkpoint: Checkpoint, layers: int) -> list[str]:
    config = checkpoint.text_config
    interval = int(config.get("full_attention_interval") or 4)
    pattern = ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)]
    types = list(config.get("layer_types") or pattern)
    if len(types) != layers or set(types) - {"full_attention", "linear_attention"}:
        raise CheckpointError(
            f"{checkpoint.directory / 'config.json'}: layer_types does not give linear_attention or full_attention "
            f"for each of {layers} layers"
        )
    return types


Bound = tuple[Rule, str, str]  # a rule with its GGUF and source names filled in


def _bind(rules: Iterable[Rule], block: int, layer: int, prefix: str = "") -> Iterator[Bound]:
    for rule in rules:
        yield rule, rule.gguf.replace("{L}", str(block)), prefix + rule.source.replace("{l}", str(layer))


def _text_rules(checkpoint: Checkpoint, layers: list[str], mtp_blocks: int) -> Iterator[Bound]:
    feed_forward = EXPERTS if checkpoint.arch == "qwen35moe" else DENSE
    yield from _bind(MODEL, 0, 0)
    tied = checkpoint.config.get("tie_word_embeddings") or checkpoint.text_config.get("tie_word_embeddings")
    if "lm_head.weight" in checkpoint.tensors or not tied:
        yield from _bind(OUTPUT, 0, 0)
    for layer, kind in enumerate(layers):
        yield from _bind(NORMS + (ATTENTION if kind == "full_attention" else DELTA_NET) + feed_forward, layer, layer)
    for layer in range(mtp_blocks):
        yield from _bind(NORMS + ATTENTION + feed_forward, len(layers) + layer, layer, prefix="mtp.")
    if mtp_blocks:
        yield from _bind(MTP, len(layers), 0)


def _vision_rules(dims: Dims) -> Iterator[Bound]:
    if "vision_blocks" not in dims:
        raise CheckpointError("config.json has no vision_config, but there are visual.* tensors; restore it")
    yield from _bind(VISION, 0, 0)
    for block in range(dims["vision_blocks"]):
        yield from _bind(VISION_BLOCK, block, block)


def _resolve(
    checkpoint: Checkpoint, dims: Dims, operations: Mapping[str, tuple[Operation, ...]], rules: Iterable[Bound]
) -> Iterator[OutputTensor]:
    missing = []
    for rule, gguf, source in rules:
        sources: tuple[str, ...] = (source,)
        shape, part, names = tuple(dims[n] for n in rule.shape), rule.part, rule.shape
        if rule.per_expert and source not in checkpoint.tensors:
            # gate_up_proj lives at {stack}.mlp.experts; so do the single experts.
            stack = source.rpartition(".")[0]
            projection = rule.per_expert[0].partition(".{e}.")[2]
            sources = tuple(f"{stack}.{e}.{projection}" for e in range(dims["experts"]))
            part, names = None, rule.per_expert[1]
            shape = tuple(dims[n] for n in names)
        absent = [name for name in sources if name not in checkpoint.tensors]
        if absent:
            missing.append((gguf, absent[0]))
            continue
        for name in sources:
            found = checkpoint.tensors[name].shape
            if found != shape:
                raise CheckpointError(
                    f"{checkpoint.tensors[name].name} has shape {list(found)}, but config.json promises {list(shape)} "
                    f"({', '.join(names)}) for {gguf}; the config belongs to another model"
                )
        if part:
            shape = part.shape(shape)
        bound = tuple(op for name in rule.operations for op in operations[name])
        for operation in bound:
            shape = operation.shape(shape)
        if rule.per_expert and len(shape) == 2:  # one tensor an expert: stacked in expert order
            shape = (len(sources), *shape)
        yield OutputTensor(gguf, sources, part, bound, shape, rule.floor)
    if missing:
        gguf, name = missing[0]
        raise CheckpointError(
            f"{checkpoint.directory}: {len(missing)} tensors are missing, first {name} (for {gguf}); "
            "the checkpoint is incomplete or config.json belongs to another model"
        )


def _check_coverage(checkpoint: Checkpoint, outputs: list[OutputTensor]) -> None:
    """Every output once, every source entirely used: nothing is skipped in silence."""
    made: dict[str, OutputTensor] = {}
    used: dict[str, list[Part | None]] = {}
    for output in outputs:
        if output.name in made:
            raise CheckpointError(
                f"{output.name} would be made twice, from {made[output.name].sources[0]} and {output.sources[0]}"
            )
        made[output.name] = output
        for source in output.sources:
            used.setdefault(source, []).append(output.part)
    for source, parts in used.items():
        complete = parts == [None] or (
            None not in parts and sorted(p.index for p in parts if p) == list(range(parts[0].count if parts[0] else 0))
        )
        if not complete:
            raise CheckpointError(f"{source} is not used exactly once by the tensor map: {parts}")
    unknown = [
        checkpoint.tensors[name].name
        for name in checkpoint.tensors
        if name not in used and not any(pattern.search(name) for pattern, _ in IGNORED)
    ]
    if unknown:
        raise CheckpointError(
            f"{checkpoint.directory}: {len(unknown)} tensors are unknown to the {checkpoint.arch} map, first "
            f"{unknown[0]}; this is not a plain Qwen3.5 checkpoint"
        )
