"""The formats that weights can be stored in, and the quantization presets (Q4_K_M ...) that choose among them.

Two tables. To use another ggml type, add a line to FORMATS; to give it a name on the command line, one to PRESETS. Our
kernels (ggml_ops/kquants) are used for the types that they have, ggml's for the others.

A preset is an ordered list of rules, first match wins. They reproduce the choices of llama-quantize for the
architectures qwen35 and qwen35moe, tensor for tensor; `tensor_types` applies them.
Source: llama.cpp src/llama-quant.cpp (llama_tensor_get_type_impl, tensor_type_fallback, tensor_requires_imatrix) and
tools/quantize/quantize.cpp (names).

llama.cpp counts attn_v, ffn_down, ... while it walks the blocks. In this family every block, MTP included, has exactly
one of attn_qkv and attn_v and one feed-forward, so each of its counters is the block's number and each total is the
number of blocks. Its separate branch for attn_qkv is never reached (attn_qkv counts as attn_v) and has no rule here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

from qwen35_gguf.architecture import Architecture
from qwen35_gguf.errors import QuantizationError
from qwen35_gguf.json_file import printable

Imatrix = Literal["optional", "expected", "required"]


class Format(NamedTuple):
    """A ggml type that weights can be stored in.

    Attributes:
        type: of ggml.
        error: limit of `qwen35 verify` for rms(error) / rms(weights). It is about twice what normally distributed
            weights give: heavy tails pass, a wrong permutation (1.4) or a missing +1 does not.
        fallback: the type for rows that are not whole blocks, None for F16.
        imatrix: whether an importance matrix is optional, expected by llama-quantize, or required by ggml.

    """

    type: Type
    error: float
    fallback: Type | None = None
    imatrix: Imatrix = "optional"


FORMATS = {
    row.type: row
    for row in (
        Format(Type.F32, 1e-6),
        Format(Type.BF16, 4e-3),
        Format(Type.F16, 1e-3),
        Format(Type.Q8_0, 0.02),
        Format(Type.Q6_K, 0.05, Type.Q8_0),
        Format(Type.Q5_K, 0.09, Type.Q5_1),
        Format(Type.Q5_1, 0.1),
        Format(Type.Q5_0, 0.12),
        Format(Type.Q4_K, 0.17, Type.Q5_0),
        Format(Type.Q4_1, 0.2),
        Format(Type.Q4_0, 0.23),
        Format(Type.IQ4_NL, 0.2),
        Format(Type.IQ4_XS, 0.2, Type.IQ4_NL),
        Format(Type.MXFP4, 0.3),
        Format(Type.Q3_K, 0.35, Type.Q4_0),
        Format(Type.IQ3_S, 0.35, Type.IQ4_NL),
        Format(Type.IQ3_XXS, 0.4, Type.IQ4_NL, "expected"),
        Format(Type.Q2_K, 0.6, Type.Q4_0),
        Format(Type.IQ2_S, 1.0, Type.IQ4_NL, "expected"),
        Format(Type.IQ2_XS, 1.0, Type.IQ4_NL, "required"),
        Format(Type.IQ2_XXS, 1.0, Type.IQ4_NL, "required"),
        Format(Type.IQ1_M, 1.0, Type.IQ4_NL, "expected"),
        Format(Type.IQ1_S, 1.0, Type.IQ4_NL, "required"),
        Format(Type.TQ2_0, 1.0, Type.Q4_0),
        Format(Type.TQ1_0, 1.0, Type.Q4_0),
        # Newer than the oldest gguf package that is supported.
        *(Format(Type[name], 1.0) for name in ("NVFP4", "Q1_0") if name in Type.__members__),
    )
}


@dataclass(frozen=True)
class Weight:
    """What the rules look at.

    Attributes:
        category: which matrix of a block it is, as llama-quantize groups them.
        block: the number of its block, 0 outside of the blocks.
        architecture: of its model.
        stacked: it holds the matrices of all routed experts.
        imatrix: an importance matrix is used.

    """

    category: str
    block: int
    architecture: Architecture
    stacked: bool = False
    imatrix: bool = False


Condition = Callable[[Weight], bool]


@dataclass(frozen=True)
class Rule:
    """Tensors in one of `categories` for which `when` holds get `type`."""

    categories: tuple[str, ...]
    type: Type
    when: Condition | None = None


@dataclass(frozen=True)
class Preset:
    """A quantization preset: the type of a tensor is that of the first matching rule, or the default.

    Attributes:
        name: as llama-quantize spells it.
        file_type: `general.file_type` of the files.
        default: the type of the tensors for which no rule holds.
        rules: in order.

    """

    name: str
    file_type: LlamaFileType
    default: Type
    rules: tuple[Rule, ...] = ()


OUTPUT, EMBED = "output", "token_embd"
ATTN_Q, ATTN_K, ATTN_V, ATTN_OUT = "attn_q", "attn_k", "attn_v", "attn_output"
FFN_UP, FFN_GATE, FFN_DOWN = "ffn_up", "ffn_gate", "ffn_down"


def more_bits(weight: Weight) -> bool:
    """Tell whether the block is in the first or last eighth, or every third one between."""
    i, n = weight.block, weight.architecture.blocks
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def first(part: int) -> Condition:
    """Blocks in the first n-th of the model."""
    return lambda weight: weight.block < weight.architecture.blocks // part


def below(count: int) -> Condition:
    """Hold for the first `count` blocks."""
    return lambda weight: weight.block < count


def middle(weight: Weight) -> bool:
    """Blocks outside the first and the last eighth."""
    i, n = weight.block, weight.architecture.blocks
    return n // 8 <= i < 7 * n // 8


def grouped(weight: Weight) -> bool:
    """At least four query heads share a key-value head: attn_v is small, so more bits cost little."""
    return weight.architecture.heads // weight.architecture.kv_heads >= 4


def eight_experts(weight: Weight) -> bool:
    """Exactly eight experts, as in the Mixtral models that this special case was made for."""
    return experts_of(weight) == 8


def experts_of(weight: Weight) -> int:
    """Return the number of routed experts, 0 in a dense model."""
    return weight.architecture.experts.count if weight.architecture.experts else 0


def stacked(weight: Weight) -> bool:
    """Hold for the routed experts, which are one tensor of three dimensions."""
    return weight.stacked


def with_imatrix(weight: Weight) -> bool:
    """Hold when an importance matrix is used."""
    return weight.imatrix


def no(condition: Condition) -> Condition:
    """Negate a condition."""
    return lambda weight: not condition(weight)


def both(*conditions: Condition) -> Condition:
    """All of the conditions."""
    return lambda weight: all(condition(weight) for condition in conditions)


def either(*conditions: Condition) -> Condition:
    """Any of the conditions."""
    return lambda weight: any(condition(weight) for condition in conditions)


V8 = Rule((ATTN_V, ATTN_K), Type.Q8_0, eight_experts)
OUT5 = Rule((ATTN_OUT,), Type.Q5_K, eight_experts)


def out(type_: Type) -> Rule:
    """Give the attention output `type_`, unless there are eight experts."""
    return Rule((ATTN_OUT,), type_, no(eight_experts))


def attention(type_: Type, when: Condition | None = None) -> Rule:
    """Give attn_v (and attn_qkv) `type_`."""
    return Rule((ATTN_V,), type_, when)


def down(type_: Type, when: Condition | None = None) -> Rule:
    """Give ffn_down `type_`."""
    return Rule((FFN_DOWN,), type_, when)


def _tiny(down_and_v: Type, embed: Type, attn_out: Type | None) -> tuple[Rule, ...]:
    """Rules of the types at and below 2.7 bits, which share their shape."""
    rules = (
        Rule((OUTPUT,), Type.Q5_K),
        Rule((EMBED,), embed),
        attention(Type.Q4_K, either(grouped, lambda weight: experts_of(weight) >= 4)),
        attention(down_and_v),
        Rule((ATTN_K,), Type.Q4_K, eight_experts),
        down(down_and_v, first(8)),
        OUT5,
    )
    return (*rules, Rule((ATTN_OUT,), attn_out)) if attn_out else rules


F = LlamaFileType
PRESETS = (
    Preset("F32", F.ALL_F32, Type.F32),
    Preset("F16", F.MOSTLY_F16, Type.F16),
    Preset("BF16", F.MOSTLY_BF16, Type.BF16),
    Preset("Q8_0", F.MOSTLY_Q8_0, Type.Q8_0, (V8,)),
    Preset("Q6_K", F.MOSTLY_Q6_K, Type.Q6_K, (V8,)),
    Preset("Q5_K_M", F.MOSTLY_Q5_K_M, Type.Q5_K, (V8, Rule((ATTN_V, FFN_DOWN), Type.Q6_K, more_bits))),
    Preset("Q5_K_S", F.MOSTLY_Q5_K_S, Type.Q5_K, (V8,)),
    Preset("Q5_1", F.MOSTLY_Q5_1, Type.Q5_1, (V8,)),
    Preset("Q5_0", F.MOSTLY_Q5_0, Type.Q5_0, (V8, down(Type.Q5_1, both(with_imatrix, first(8))))),
    Preset("Q4_K_M", F.MOSTLY_Q4_K_M, Type.Q4_K, (V8, OUT5, Rule((ATTN_V, FFN_DOWN), Type.Q6_K, more_bits))),
    Preset("Q4_K_S", F.MOSTLY_Q4_K_S, Type.Q4_K, (V8, OUT5, attention(Type.Q5_K, below(4)), down(Type.Q5_K, first(8)))),
    Preset("Q4_1", F.MOSTLY_Q4_1, Type.Q4_1, (V8,)),
    Preset("Q4_0", F.MOSTLY_Q4_0, Type.Q4_0, (V8, down(Type.Q4_1, both(with_imatrix, first(8))))),
    Preset(
        "IQ4_NL",
        F.MOSTLY_IQ4_NL,
        Type.IQ4_NL,
        (V8, OUT5, attention(Type.Q5_K, grouped), down(Type.Q5_K, both(first(8), no(with_imatrix)))),
    ),
    Preset(
        "IQ4_XS",
        F.MOSTLY_IQ4_XS,
        Type.IQ4_XS,
        (V8, OUT5, attention(Type.Q5_K, grouped), down(Type.Q5_K, both(first(8), no(with_imatrix)))),
    ),
    Preset("Q3_K_L", F.MOSTLY_Q3_K_L, Type.Q3_K, (V8, attention(Type.Q5_K), down(Type.Q5_K), out(Type.Q5_K))),
    Preset(
        "Q3_K_M",
        F.MOSTLY_Q3_K_M,
        Type.Q3_K,
        (
            V8,
            OUT5,
            attention(Type.Q5_K, below(2)),
            attention(Type.Q4_K),
            down(Type.Q5_K, first(16)),
            down(Type.Q4_K),
            out(Type.Q4_K),
        ),
    ),
    Preset("Q3_K_S", F.MOSTLY_Q3_K_S, Type.Q3_K, (V8, OUT5)),
    Preset(
        "IQ3_M",
        F.MOSTLY_IQ3_M,
        Type.IQ3_S,
        (
            V8,
            OUT5,
            attention(Type.Q4_K),
            down(Type.Q4_K, either(first(8), both(eight_experts, more_bits))),
            out(Type.Q4_K),
        ),
    ),
    Preset("IQ3_S", F.MOSTLY_IQ3_S, Type.IQ3_S, (V8, OUT5, attention(Type.Q4_K, grouped))),
    Preset(
        "IQ3_XS",
        F.MOSTLY_IQ3_XS,
        Type.IQ3_S,
        (
            V8,
            OUT5,
            attention(Type.Q4_K, grouped),
            Rule((ATTN_Q, ATTN_K), Type.IQ3_XXS),
            Rule((FFN_GATE, FFN_UP), Type.IQ3_XXS, middle),
        ),
    ),
    Preset(
        "IQ3_XXS",
        F.MOSTLY_IQ3_XXS,
        Type.IQ3_XXS,
        (
            V8,
            OUT5,
            Rule((OUTPUT,), Type.Q5_K),
            Rule((EMBED,), Type.IQ3_S),
            attention(Type.Q4_K, grouped),
            attention(Type.IQ3_S, no(with_imatrix)),
            Rule((ATTN_Q, ATTN_K), Type.IQ2_S),
            down(Type.Q4_K, both(first(8), no(with_imatrix))),
            down(Type.Q3_K, no(with_imatrix)),
            out(Type.IQ3_S),
        ),
    ),
    Preset(
        "Q2_K",
        F.MOSTLY_Q2_K,
        Type.Q2_K,
        (V8, OUT5, attention(Type.Q4_K, grouped), attention(Type.Q3_K), down(Type.Q3_K), out(Type.Q3_K)),
    ),
    Preset("Q2_K_S", F.MOSTLY_Q2_K_S, Type.Q2_K, (V8, attention(Type.Q4_K, grouped), down(Type.Q4_K, first(8)))),
    Preset("IQ2_M", F.MOSTLY_IQ2_M, Type.IQ2_S, _tiny(Type.IQ3_S, Type.IQ3_S, Type.IQ3_S)),
    Preset("IQ2_S", F.MOSTLY_IQ2_S, Type.IQ2_XS, _tiny(Type.IQ3_S, Type.IQ3_S, Type.IQ3_S)),
    Preset("IQ2_XS", F.MOSTLY_IQ2_XS, Type.IQ2_XS, _tiny(Type.Q2_K, Type.Q2_K, None)),
    Preset("IQ2_XXS", F.MOSTLY_IQ2_XXS, Type.IQ2_XXS, _tiny(Type.Q2_K, Type.Q2_K, None)),
    Preset("IQ1_M", F.MOSTLY_IQ1_M, Type.IQ1_M, _tiny(Type.Q2_K, Type.Q2_K, Type.IQ2_XXS)),
    Preset("IQ1_S", F.MOSTLY_IQ1_S, Type.IQ1_S, _tiny(Type.Q2_K, Type.Q2_K, Type.IQ2_XXS)),
    Preset("MXFP4_MOE", F.MOSTLY_MXFP4_MOE, Type.Q8_0, (Rule((FFN_GATE, FFN_UP, FFN_DOWN), Type.MXFP4, stacked),)),
    Preset("TQ2_0", F.MOSTLY_TQ2_0, Type.TQ2_0, (V8, Rule((EMBED,), Type.Q4_K))),
    Preset("TQ1_0", F.MOSTLY_TQ1_0, Type.TQ1_0, (V8, Rule((EMBED,), Type.Q4_K))),
)
PRESETS_BY_NAME = {preset.name: preset for preset in PRESETS}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def find_preset(name: str) -> Preset:
    """Find a preset by its llama.cpp name, in any case. Raises QuantizationError that lists the names."""
    upper = name.upper()
    preset = PRESETS_BY_NAME.get(ALIASES.get(upper, upper))
    if preset is None:
        raise QuantizationError(f"{printable(name)}: unknown quantization; choose one of {', '.join(PRESETS_BY_NAME)}")
    return preset
