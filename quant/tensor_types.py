"""Which type a preset gives a tensor, as llama-quantize chooses it.

Source: llama.cpp src/llama-quant.cpp (tensor_get_category, tensor_allows_quantization, tensor_requires_imatrix); for
the tensors that stay F32, conversion/base.py (prepare_tensors).
"""

from __future__ import annotations

import re

from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.architecture import Architecture
from qwen35_gguf.quant.presets import (
    ATTN_K,
    ATTN_OUT,
    ATTN_Q,
    ATTN_V,
    EMBED,
    FFN_DOWN,
    FFN_GATE,
    FFN_UP,
    FORMATS,
    OUTPUT,
    Preset,
    Weight,
)

# First match wins; attn_qkv holds the values as well and is treated as attn_v.
CATEGORIES = (
    (re.compile(r"^output\.weight$"), OUTPUT),
    (re.compile(r"^token_embd\.weight$"), EMBED),
    (re.compile(r"attn_qkv\.weight|attn_v\.weight"), ATTN_V),
    (re.compile(r"attn_k\.weight"), ATTN_K),
    (re.compile(r"attn_q\.weight"), ATTN_Q),
    (re.compile(r"attn_output\.weight"), ATTN_OUT),
    (re.compile(r"ffn_up"), FFN_UP),
    (re.compile(r"ffn_gate"), FFN_GATE),
    (re.compile(r"ffn_down"), FFN_DOWN),
)

# The smallest type that needs no importance matrix and is not coarser.
SUBSTITUTES = dict.fromkeys((Type.IQ1_S, Type.IQ1_M, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S), Type.Q2_K)
SUBSTITUTES[Type.IQ3_XXS] = Type.IQ3_S

# What stays F32 in every file: vectors, norms, routers, the convolution, and whatever is not called a weight.
KEPT_F32 = re.compile(r"_norm\.weight$|ffn_gate_inp(_shexp)?\.weight$|ssm_conv1d\.weight$|(?<!\.weight)$")


def tensor_type(
    preset: Preset, tensor: str, shape: tuple[int, ...], architecture: Architecture, *, imatrix: bool = False
) -> Type:
    """Choose a tensor's type.

    Args:
        preset: the quantization preset.
        tensor: its GGUF name.
        shape: in numpy order, the row length last.
        architecture: of its model; `mtp_blocks` and `tied` must be those of the file.
        imatrix: an importance matrix is used.

    """
    if len(shape) < 2 or KEPT_F32.search(tensor):
        return Type.F32
    if GGML_QUANT_SIZES[preset.default][0] == 1:  # F32, F16, BF16
        return preset.default
    category = next((category for pattern, category in CATEGORIES if pattern.search(tensor)), "other")
    if category == EMBED and architecture.tied:
        category = OUTPUT
    block = re.match(r"blk\.(\d+)\.", tensor)
    weight = Weight(category, int(block[1]) if block else 0, architecture, stacked=len(shape) == 3, imatrix=imatrix)
    matching = (rule for rule in preset.rules if category in rule.categories and (not rule.when or rule.when(weight)))
    type_ = next((rule.type for rule in matching), None)
    if category == OUTPUT:
        if shape[-1] % GGML_QUANT_SIZES[preset.default][0] or preset.default is Type.Q8_0:
            type_ = Type.Q8_0
        else:
            type_ = type_ or Type.Q6_K
    return type_for_rows(type_ or preset.default, shape[-1])


def needs_imatrix(preset: Preset, tensor: str, type: Type) -> bool:  # noqa: A002 (ggml's word)
    """Tell whether llama-quantize refuses this tensor without an importance matrix."""
    if tensor in ("token_embd.weight", "output.weight"):
        return False
    return FORMATS[type].imatrix != "optional" or (type is Type.Q2_K and preset.name == "Q2_K_S")


def without_imatrix(type_: Type, columns: int) -> Type:
    """Return the type that a tensor gets instead if the importance matrix has no entry for it: one that needs none."""
    return type_for_rows(SUBSTITUTES.get(type_, type_), columns)


def type_for_rows(type_: Type, columns: int) -> Type:
    """Return `type_`, or its fallback for rows of `columns` elements that are not whole blocks of it."""
    if columns % GGML_QUANT_SIZES[type_][0]:
        type_ = FORMATS[type_].fallback or type_
    return Type.F16 if columns % GGML_QUANT_SIZES[type_][0] else type_


def vision_type(name: str, shape: tuple[int, ...], wanted: str, fixed: Type | None) -> Type:
    """Choose the type of a tensor of a vision encoder, whose matrices are to be F32, F16, BF16 or Q8_0.

    As the stock converter: patch embeddings stay F32 (F16 in an F16 file), odd rows fall back to F16.
    """
    if name.startswith("v.patch_embd.weight"):
        return Type.F16 if wanted == "F16" else Type.F32
    if fixed is not None:
        return fixed
    if wanted == "Q8_0" and shape[-1] % 32:
        return Type.F16
    return Type[wanted]
