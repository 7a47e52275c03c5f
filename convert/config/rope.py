"""The rotary positions that config.json describes, as transformers 5 reads them.

An older config has `rope_scaling` with `rope_theta` and `partial_rotary_factor` beside it, a newer one everything in
`rope_parameters`. Where both are there, transformers takes `rope_scaling` alone: nothing is merged.

Sources: transformers modeling_rope_utils.py (RotaryEmbeddingConfigMixin, _compute_yarn_parameters) and
modeling_qwen3_5.py (Qwen3_5TextRotaryEmbedding); llama.cpp src/llama-context.cpp (yarn_attn_factor) and
ggml/src/ggml-cpu/ops.cpp (rope_yarn).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from qwen35_gguf.json_file import COUNT, FLAG, NUMBER, POSITIVE, SIZE, JsonObject, list_of, one_of

DEFAULT_THETA = 10_000.0
DEFAULT_FACTOR = 0.25
DEFAULT_SECTIONS = [11, 11, 10]
SECTIONS = 4  # llama.cpp reads time, height, width, and one that is not used


@dataclass(frozen=True)
class Rope:
    """Rotary positions of a full-attention layer.

    Attributes:
        theta: base of the frequencies.
        dimensions: of a head that are rotated.
        sections: pairs of dimensions for time, height and width (M-RoPE), and a 0.
        scaling: yarn, linear or None.
        factor: of the scaling.
        original_context: tokens that the frequencies were trained for (YaRN).
        attention_factor: what the rotated values are multiplied with (YaRN), divided by what llama.cpp multiplies with
            by itself, 1 + 0.1 ln(factor); None: the same.
        beta_fast: rotations at which YaRN interpolates nothing; None for the default.
        beta_slow: rotations at which YaRN interpolates everything; None for the default.
        notes: what to tell the user, one line each.

    """

    theta: float
    dimensions: int
    sections: tuple[int, ...]
    scaling: str | None = None
    factor: float | None = None
    original_context: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    notes: tuple[str, ...] = ()


def read_rope(text: JsonObject) -> Rope:
    """Read the rotary positions of the text model.

    Raises:
        CheckpointError: an entry is missing, of another type, or something that llama.cpp cannot compute.

    """
    holder = _holder(text)
    scaling, parameters = holder.section("rope_scaling"), holder.section("rope_parameters")
    chosen = scaling if scaling.values else parameters
    factor = _first("partial_rotary_factor", chosen, holder) or DEFAULT_FACTOR
    head_dim = text.need("head_dim", SIZE, "the number of rotated dimensions")
    dimensions = int(head_dim * factor)
    if not 0 < dimensions <= head_dim or dimensions % 2:
        owner = chosen if "partial_rotary_factor" in chosen else holder
        must = f"a share of head_dim = {head_dim} that is an even number of dimensions"
        raise owner.mistake("partial_rotary_factor", must)
    rope = Rope(
        theta=_theta(holder, chosen, parameters),
        dimensions=dimensions,
        sections=_sections(chosen),
        notes=tuple(_notes(text, holder, scaling, parameters)),
    )
    named = "rope_type" if "rope_type" in chosen else "type"
    kind = chosen.get(named, one_of("default", "yarn", "linear"), "default")
    if kind == "linear":
        return replace(rope, scaling=kind, factor=chosen.need("factor", POSITIVE))
    return _yarn(rope, holder, chosen) if kind == "yarn" else rope


def _holder(text: JsonObject) -> JsonObject:
    """Return the part with the rotary entries: of a nested config, the top level only where `text_config` has none."""
    own = replace(text, fallback=None)
    names = ("rope_scaling", "rope_parameters", "rope_theta")
    return own if text.fallback is None or any(name in own for name in names) else text.fallback


def _first(key: str, *places: JsonObject) -> float | None:
    return next((value for place in places if (value := place.get(key, POSITIVE)) is not None), None)


def _theta(holder: JsonObject, chosen: JsonObject, parameters: JsonObject) -> float:
    theta = _first("rope_theta", chosen, holder)
    if theta is None and "rope_theta" in parameters:
        return DEFAULT_THETA  # as transformers: what is not chosen does not count, with a note
    return theta if theta is not None else chosen.need("rope_theta", POSITIVE, "the base of the rotary frequencies")


def _sections(chosen: JsonObject) -> tuple[int, ...]:
    sections = chosen.get("mrope_section", list_of(COUNT), DEFAULT_SECTIONS)
    if not 0 < len(sections) <= SECTIONS:
        raise chosen.mistake("mrope_section", "a list of the pairs for time, height and width")
    if not chosen.get("mrope_interleaved", FLAG, True):
        raise chosen.mistake("mrope_interleaved", "true: the graph interleaves the sections, as transformers does")
    return (*sections, *[0] * (SECTIONS - len(sections)))


def _yarn(rope: Rope, holder: JsonObject, chosen: JsonObject) -> Rope:
    factor = chosen.need("factor", POSITIVE)
    if not chosen.get("truncate", FLAG, True):
        raise chosen.mistake("truncate", "true: llama.cpp truncates the range of YaRN's correction")
    if chosen.get("extrapolation_factor", NUMBER, 1) != 1:
        raise chosen.mistake("extrapolation_factor", "1: transformers has no other")
    # A value at the level of the text model overrules, and without any the whole context counts.
    original = holder.get("original_max_position_embeddings", SIZE)
    original = original or chosen.get("original_max_position_embeddings", SIZE)
    return replace(
        rope,
        scaling="yarn",
        factor=factor,
        original_context=original or holder.need("max_position_embeddings", SIZE, "YaRN"),
        attention_factor=_attention_factor(chosen, factor),
        beta_fast=chosen.get("beta_fast", POSITIVE),
        beta_slow=chosen.get("beta_slow", POSITIVE),
    )


def _attention_factor(chosen: JsonObject, factor: float) -> float | None:
    def temperature(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    wanted = chosen.get("attention_factor", POSITIVE)
    scale, all_dimensions = chosen.get("mscale", NUMBER), chosen.get("mscale_all_dim", NUMBER)
    if wanted is None and scale and all_dimensions:
        wanted = temperature(scale) / temperature(all_dimensions)
    if wanted is None or math.isclose(wanted, temperature(1.0), rel_tol=1e-6):
        return None
    return wanted / temperature(1.0)


def _notes(text: JsonObject, holder: JsonObject, scaling: JsonObject, parameters: JsonObject) -> Iterator[str]:
    place = f"{holder.path}." if holder.path else ""
    if scaling.values and parameters.values and scaling.values != parameters.values:
        note = f"config.json has both {place}rope_scaling and {place}rope_parameters: rope_scaling counts, as in"
        lost = "rope_theta" in parameters and _first("rope_theta", scaling, holder) is None
        yield f"{note} transformers" + (
            f", and has no rope_theta: {DEFAULT_THETA:g} is taken instead of the "
            f"{parameters.get('rope_theta', POSITIVE):g} of rope_parameters; add it to rope_scaling"
            if lost
            else ""
        )
    if text.fallback is None:
        return
    if holder is text.fallback:
        yield "config.json has the rotary positions at the top level only, not in text_config: these are used"
    elif text.fallback.section("rope_scaling").values:
        yield (
            "config.json has rope_scaling at the top level, which transformers does not read: it is ignored; move it "
            "into text_config"
        )
