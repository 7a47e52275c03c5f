"""Headers of GGUF files that are not here: what a conversion of a published size would write, without its vocabulary.

The memory plan needs no more of a file: the names, shapes and types of its tensors and its hyper-parameters.
"""

from __future__ import annotations

import math
from pathlib import Path

from gguf import GGUFValueType

from qwen35_gguf.architecture import Architecture, VisionEncoder
from qwen35_gguf.convert.tensor_map import expected_shapes, text_rules, vision_rules
from qwen35_gguf.gguf_file.format import DEFAULT_ALIGNMENT
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo, contiguous
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.quant.presets import Preset
from qwen35_gguf.quant.tensor_types import tensor_type, vision_type

UINT32, STRING, ARRAY, BOOL = GGUFValueType.UINT32, GGUFValueType.STRING, GGUFValueType.ARRAY, GGUFValueType.BOOL


def text_header(path: Path, model: Architecture, preset: Preset) -> GgufHeader:
    """Return the header of a text model in a quantization preset; `path` names it."""
    fixed = {bound.gguf: bound.rule.fixed for bound in text_rules(model)}
    tensors = [
        TensorInfo(name, shape, fixed[name] or tensor_type(preset, name, shape, model))
        for name, shape in expected_shapes(model).items()
    ]
    return _header(path, model.name, f"{model.name}.", _text_numbers(model), tensors, _recurrent(model))


def vision_header(path: Path, encoder: VisionEncoder, type_: str) -> GgufHeader:
    """Return the header of a vision encoder whose matrices have a type; `path` names it."""
    fixed = {bound.gguf: bound.rule.fixed for bound in vision_rules(encoder)}
    tensors = [
        TensorInfo(name, shape, vision_type(name, shape, type_, fixed[name]))
        for name, shape in expected_shapes(encoder).items()
    ]
    return _header(path, "clip", "clip.vision.", _vision_numbers(encoder), tensors)


def checkpoint_bytes(*models: Architecture | VisionEncoder) -> int:
    """Return what a checkpoint in BF16 takes: what must be downloaded to convert it."""
    shapes = [shape for model in models for shape in expected_shapes(model).values()]
    return 2 * sum(math.prod(shape) for shape in shapes)


def _header(
    path: Path,
    architecture: str,
    prefix: str,
    numbers: dict[str, int],
    tensors: list[TensorInfo],
    more: tuple[KeyValue, ...] = (),
) -> GgufHeader:
    entries = [KeyValue.of("general.architecture", architecture, STRING)]
    entries += [KeyValue.of(prefix + key, value, UINT32) for key, value in numbers.items()]
    placed = contiguous(tensors, DEFAULT_ALIGNMENT)
    size = sum(tensor.nbytes for tensor in placed)
    return GgufHeader(path, (*entries, *more), placed, 3, DEFAULT_ALIGNMENT, 0, size)


def _text_numbers(model: Architecture) -> dict[str, int]:
    """Return the hyper-parameters of a text model by their keys in a GGUF: what `Architecture.from_gguf` reads."""
    numbers = {
        "block_count": model.blocks,
        "nextn_predict_layers": model.mtp_blocks,
        "context_length": model.context_length,
        "embedding_length": model.hidden_size,
        "feed_forward_length": model.intermediate_size,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head_dim,
        "ssm.conv_kernel": model.conv_kernel_size,
        "ssm.state_size": model.linear_key_head_dim,
        "ssm.group_count": model.linear_key_heads,
        "ssm.time_step_rank": model.linear_value_heads,
        "ssm.inner_size": model.linear_value_size,
        "full_attention_interval": model.full_attention_interval,
    }
    if model.experts:
        numbers |= {
            "expert_count": model.experts.count,
            "expert_used_count": model.experts.used,
            "expert_feed_forward_length": model.experts.intermediate_size,
            "expert_shared_feed_forward_length": model.experts.shared_intermediate_size,
        }
    return numbers


def _recurrent(model: Architecture) -> tuple[KeyValue, ...]:
    key = f"{model.name}.attention.recurrent_layers"
    return (KeyValue.of(key, list(model.recurrent), ARRAY, BOOL),)


def _vision_numbers(encoder: VisionEncoder) -> dict[str, int]:
    """Return the hyper-parameters of a vision encoder by their keys: what `VisionEncoder.from_gguf` reads."""
    return {
        "block_count": encoder.depth,
        "embedding_length": encoder.hidden_size,
        "feed_forward_length": encoder.intermediate_size,
        "attention.head_count": encoder.heads,
        "projection_dim": encoder.out_hidden_size,
        "patch_size": encoder.patch_size,
        "spatial_merge_size": encoder.spatial_merge_size,
        "image_size": encoder.grid_size * encoder.patch_size,
    }
