"""Named mixes (Q4_K_M ...): ordered rules, first match wins.

The table reproduces the choices of llama-quantize for the arches qwen35 and qwen35moe, tensor for tensor.
Source: llama.cpp src/llama-quant.cpp (llama_tensor_get_type_impl, tensor_type_fallback, tensor_requires_imatrix,
tensor_allows_quantization) and tools/quantize/quantize.cpp (names); for the tensors that stay F32,
conversion/base.py (prepare_tensors).

llama.cpp counts attn_v, ffn_down, ... while it walks the blocks. In this family every block, MTP included, has exactly
one of attn_qkv and attn_v and one feed-forward, so each of its counters is the block's number and each total is the
number of blocks. Its separate branch for attn_qkv is never reached (attn_qkv counts as attn_v) and has no rule here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.architecture import Architecture
from qwen35_gguf.errors import QuantizationError


@dataclass(frozen=True)
class Weight:
    """What the rules look at.

    Attributes:
        role: which matrix of a block it is, as llama-quantize groups them.
        block: the number of its block, 0 outside of the blocks.
        architecture: of its model.
        stacked: it holds the matrices of all routed experts.
        imatrix: an importance matrix is used.

    """

    role: str
    block: int
    architecture: Architecture
    stacked: bool = False
    imatrix: bool = False


Condition = Callable[[Weight], bool]


@dataclass(frozen=True)
class Rule:
    """Tensors in one of `roles` for which `when` holds get `type`."""

    roles: tuple[str, ...]
    type: Type
    when: Condition | None = None


@dataclass(frozen=True)
class Recipe:
    """A mix: the type of a tensor is that of the first matching rule, or the default."""

    name: str
    file_type: LlamaFileType
    default: Type
    rules: tuple[Rule, ...] = ()


OUTPUT, EMBED = "output", "token_embd"
ATTN_Q, ATTN_K, ATTN_V, ATTN_OUT = "attn_q", "attn_k", "attn_v", "attn_output"
FFN_UP, FFN_GATE, FFN_DOWN = "ffn_up", "ffn_gate", "ffn_down"

# First match wins; attn_qkv holds the values as well and is treated as attn_v.
ROLES = (
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


def importance(weight: Weight) -> bool:
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
RECIPES = (
    Recipe("F32", F.ALL_F32, Type.F32),
    Recipe("F16", F.MOSTLY_F16, Type.F16),
    Recipe("BF16", F.MOSTLY_BF16, Type.BF16),
    Recipe("Q8_0", F.MOSTLY_Q8_0, Type.Q8_0, (V8,)),
    Recipe("Q6_K", F.MOSTLY_Q6_K, Type.Q6_K, (V8,)),
    Recipe("Q5_K_M", F.MOSTLY_Q5_K_M, Type.Q5_K, (V8, Rule((ATTN_V, FFN_DOWN), Type.Q6_K, more_bits))),
    Recipe("Q5_K_S", F.MOSTLY_Q5_K_S, Type.Q5_K, (V8,)),
    Recipe("Q5_1", F.MOSTLY_Q5_1, Type.Q5_1, (V8,)),
    Recipe("Q5_0", F.MOSTLY_Q5_0, Type.Q5_0, (V8, down(Type.Q5_1, both(importance, first(8))))),
    Recipe("Q4_K_M", F.MOSTLY_Q4_K_M, Type.Q4_K, (V8, OUT5, Rule((ATTN_V, FFN_DOWN), Type.Q6_K, more_bits))),
    Recipe("Q4_K_S", F.MOSTLY_Q4_K_S, Type.Q4_K, (V8, OUT5, attention(Type.Q5_K, below(4)), down(Type.Q5_K, first(8)))),
    Recipe("Q4_1", F.MOSTLY_Q4_1, Type.Q4_1, (V8,)),
    Recipe("Q4_0", F.MOSTLY_Q4_0, Type.Q4_0, (V8, down(Type.Q4_1, both(importance, first(8))))),
    Recipe(
        "IQ4_NL",
        F.MOSTLY_IQ4_NL,
        Type.IQ4_NL,
        (V8, OUT5, attention(Type.Q5_K, grouped), down(Type.Q5_K, both(first(8), no(importance)))),
    ),
    Recipe(
        "IQ4_XS",
        F.MOSTLY_IQ4_XS,
        Type.IQ4_XS,
        (V8, OUT5, attention(Type.Q5_K, grouped), down(Type.Q5_K, both(first(8), no(importance)))),
    ),
    Recipe("Q3_K_L", F.MOSTLY_Q3_K_L, Type.Q3_K, (V8, attention(Type.Q5_K), down(Type.Q5_K), out(Type.Q5_K))),
    Recipe(
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
    Recipe("Q3_K_S", F.MOSTLY_Q3_K_S, Type.Q3_K, (V8, OUT5)),
    Recipe(
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
    Recipe("IQ3_S", F.MOSTLY_IQ3_S, Type.IQ3_S, (V8, OUT5, attention(Type.Q4_K, grouped))),
    Recipe(
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
    Recipe(
        "IQ3_XXS",
        F.MOSTLY_IQ3_XXS,
        Type.IQ3_XXS,
        (
            V8,
            OUT5,
            Rule((OUTPUT,), Type.Q5_K),
            Rule((EMBED,), Type.IQ3_S),
            attention(Type.Q4_K, grouped),
            attention(Type.IQ3_S, no(importance)),
            Rule((ATTN_Q, ATTN_K), Type.IQ2_S),
            down(Type.Q4_K, both(first(8), no(importance))),
            down(Type.Q3_K, no(importance)),
            out(Type.IQ3_S),
        ),
    ),
    Recipe(
        "Q2_K",
        F.MOSTLY_Q2_K,
        Type.Q2_K,
        (V8, OUT5, attention(Type.Q4_K, grouped), attention(Type.Q3_K), down(Type.Q3_K), out(Type.Q3_K)),
    ),
    Recipe("Q2_K_S", F.MOSTLY_Q2_K_S, Type.Q2_K, (V8, attention(Type.Q4_K, grouped), down(Type.Q4_K, first(8)))),
    Recipe("IQ2_M", F.MOSTLY_IQ2_M, Type.IQ2_S, _tiny(Type.IQ3_S, Type.IQ3_S, Type.IQ3_S)),
    Recipe("IQ2_S", F.MOSTLY_IQ2_S, Type.IQ2_XS, _tiny(Type.IQ3_S, Type.IQ3_S, Type.IQ3_S)),
    Recipe("IQ2_XS", F.MOSTLY_IQ2_XS, Type.IQ2_XS, _tiny(Type.Q2_K, Type.Q2_K, None)),
    Recipe("IQ2_XXS", F.MOSTLY_IQ2_XXS, Type.IQ2_XXS, _tiny(Type.Q2_K, Type.Q2_K, None)),
    Recipe("IQ1_M", F.MOSTLY_IQ1_M, Type.IQ1_M, _tiny(Type.Q2_K, Type.Q2_K, Type.IQ2_XXS)),
    Recipe("IQ1_S", F.MOSTLY_IQ1_S, Type.IQ1_S, _tiny(Type.Q2_K, Type.Q2_K, Type.IQ2_XXS)),
    Recipe("MXFP4_MOE", F.MOSTLY_MXFP4_MOE, Type.Q8_0, (Rule((FFN_GATE, FFN_UP, FFN_DOWN), Type.MXFP4, stacked),)),
    Recipe("TQ2_0", F.MOSTLY_TQ2_0, Type.TQ2_0, (V8, Rule((EMBED,), Type.Q4_K))),
    Recipe("TQ1_0", F.MOSTLY_TQ1_0, Type.TQ1_0, (V8, Rule((EMBED,), Type.Q4_K))),
)
QUANTS = {recipe.name: recipe for recipe in RECIPES}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

# What stays F32 in every file: vectors, norms, routers, the convolution, and whatever is no weight.
KEPT_F32 = re.compile(r"_norm\.weight$|ffn_gate_inp(_shexp)?\.weight$|ssm_conv1d\.weight$|(?<!\.weight)$")

# For rows that are not whole blocks of the wanted type: a type with blocks of 32.
FALLBACKS = {
    Type.Q2_K: Type.Q4_0, Type.Q3_K: Type.Q4_0, Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0,
    Type.TQ1_0: Type.Q4_0, Type.TQ2_0: Type.Q4_0, Type.IQ4_XS: Type.IQ4_NL, Type.IQ3_S: Type.IQ4_NL,
    Type.IQ3_XXS: Type.IQ4_NL, Type.IQ2_S: Type.IQ4_NL, Type.IQ2_XS: Type.IQ4_NL, Type.IQ2_XXS: Type.IQ4_NL,
    Type.IQ1_S: Type.IQ4_NL, Type.IQ1_M: Type.IQ4_NL,
}  # fmt: skip

IMPORTANCE_TYPES = {Type.IQ3_XXS, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.IQ1_M, Type.IQ1_S}


def find_recipe(name: str) -> Recipe:
    """Find a mix by its llama.cpp name, in any case. Raises QuantizationError that lists the names."""
    upper = name.upper()
    recipe = QUANTS.get(ALIASES.get(upper, upper))
    if recipe is None:
        raise QuantizationError(f"{name}: unknown quantization; choose one of {', '.join(QUANTS)}")
    return recipe


def tensor_type(
    recipe: Recipe, tensor: str, shape: tuple[int, ...], architecture: Architecture, *, imatrix: bool = False
) -> Type:
    """Choose a tensor's type.

    Args:
        recipe: the mix.
        tensor: its GGUF name.
        shape: in numpy order, the row length last.
        architecture: of its model; `mtp_blocks` and `tied` must be those of the file.
        imatrix: an importance matrix is used.

    """
    if len(shape) < 2 or KEPT_F32.search(tensor):
        return Type.F32
    if GGML_QUANT_SIZES[recipe.default][0] == 1:  # F32, F16, BF16
        return recipe.default
    role = next((role for pattern, role in ROLES if pattern.search(tensor)), "other")
    if role == EMBED and architecture.tied:
        role = OUTPUT
    block = re.match(r"blk\.(\d+)\.", tensor)
    weight = Weight(role, int(block[1]) if block else 0, architecture, stacked=len(shape) == 3, imatrix=imatrix)
    type_ = next((r.type for r in recipe.rules if role in r.roles and (r.when is None or r.when(weight))), None)
    if role == OUTPUT:
        if shape[-1] % GGML_QUANT_SIZES[recipe.default][0] or recipe.default is Type.Q8_0:
            type_ = Type.Q8_0
        else:
            type_ = type_ or Type.Q6_K
    return fitting(type_ or recipe.default, shape[-1])


def needs_importance(recipe: Recipe, tensor: str, type: Type) -> bool:  # noqa: A002 (ggml's word)
    """Tell whether llama-quantize refuses this tensor without an importance matrix."""
    if tensor in ("token_embd.weight", "output.weight"):
        return False
    return type in IMPORTANCE_TYPES or (type is Type.Q2_K and recipe.name == "Q2_K_S")


def fitting(type_: Type, columns: int) -> Type:
    """Return a type for rows that are not whole blocks of the wanted one."""
    if columns % GGML_QUANT_SIZES[type_][0]:
        type_ = FALLBACKS.get(type_, type_)
    return Type.F16 if columns % GGML_QUANT_SIZES[type_][0] else type_
