"""The keys of a GGUF file that come from config.json: ``{arch}.*``, ``clip.*`` and ``general.sampling.*``.

Each key is one row of a table: the GGUF key, where its value is in the config, its type. The keys are those of
llama.cpp's converter, read by its ``src/models/qwen35*.cpp`` and ``tools/mtmd/clip.cpp``. Different on purpose:

* the number of MTP blocks is an argument (what the checkpoint contains), not config.json's claim;
* a missing entry is an error instead of a default that transformers would have filled in;
* ``repetition_penalty`` of generation_config.json is kept whichever version of gguf-py is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gguf import GGUFValueType, RopeScalingType, VisionProjectorType

from qwen35_gguf.architecture import LINEAR, interval_of, layer_kinds_of
from qwen35_gguf.errors import CheckpointError

UINT32, INT32, FLOAT32 = GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.FLOAT32
BOOL, STRING, ARRAY = GGUFValueType.BOOL, GGUFValueType.STRING, GGUFValueType.ARRAY

Config = Mapping[str, Any]
Rule = Callable[[Config], Any]


class Key(NamedTuple):
    """One row: ``source`` is an entry of the config, or a function of the config for what must be computed.

    ``needed`` says whether a config without the value is an error; otherwise the key is left out.
    ``element`` makes it an array of that type.
    """

    key: str
    source: str | Rule
    type: GGUFValueType
    needed: bool = True
    element: GGUFValueType | None = None


class MissingError(KeyError):
    """An entry that a row needs is not in the config."""


def _need(config: Config, name: str) -> Any:
    if config.get(name) is None:
        raise MissingError(name)
    return config[name]


def _rope(config: Config) -> dict[str, Any]:
    """Return the rope parameters under their current names; older configs scatter them over the top level."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if rope.get(name) is None and config.get(name) is not None:
            rope[name] = config[name]
    rope.setdefault("rope_type", rope.get("type"))
    return rope


def _rope_dimensions(config: Config) -> int:
    return int(_need(config, "head_dim") * _rope(config).get("partial_rotary_factor", 0.25))


def _rope_sections(config: Config) -> list[int]:
    """Return the rotary pairs for time, height and width, and the unused fourth section that llama.cpp reads."""
    sections = [*_rope(config).get("mrope_section", (11, 11, 10)), 0, 0, 0, 0]
    return sections[:4]


def _rope_theta(config: Config) -> float:
    theta = _rope(config).get("rope_theta")
    if theta is None:
        raise MissingError("rope_parameters.rope_theta")
    return float(theta)


def _recurrent_layers(config: Config) -> list[bool]:
    """Return for each block whether it is a delta net; the MTP blocks are full attention."""
    recurrent = [kind == LINEAR for kind in layer_kinds_of(config)]
    return recurrent + [False] * int(config["mtp_blocks"])


def _scaling(name: str, *, rope_type: str | None = None) -> Rule:
    """Return a reader of one rope scaling entry, which is absent unless the type asks for it."""

    def read(config: Config) -> Any:
        rope = _rope(config)
        wanted = (rope_type,) if rope_type else ("yarn", "linear")
        if rope["rope_type"] not in wanted:
            return None
        if name in ("factor", "original_max_position_embeddings") and rope.get(name) is None:
            raise MissingError(f"rope_parameters.{name}")
        return rope.get(name)

    return read


def _scaling_type(config: Config) -> str | None:
    kinds = {"yarn": RopeScalingType.YARN, "linear": RopeScalingType.LINEAR}
    kind = _rope(config)["rope_type"]
    if kind not in (None, "default", *kinds):
        raise CheckpointError(f"rope_parameters.rope_type is {kind!r}; known are default, yarn and linear")
    return kinds[kind].value if kind in kinds else None


def _yarn_attention_factor(config: Config) -> Any:
    read = (_scaling(name, rope_type="yarn")(config) for name in ("attention_factor", "attn_factor"))
    return next((value for value in read if value is not None), None)


TEXT_KEYS = (
    Key("{arch}.block_count", lambda c: _need(c, "num_hidden_layers") + c["mtp_blocks"], UINT32),
    Key("{arch}.context_length", "max_position_embeddings", UINT32),
    Key("{arch}.embedding_length", "hidden_size", UINT32),
    Key("{arch}.attention.head_count", "num_attention_heads", UINT32),
    Key("{arch}.attention.head_count_kv", "num_key_value_heads", UINT32),
    Key("{arch}.rope.scaling.type", _scaling_type, STRING, needed=False),
    Key("{arch}.rope.scaling.factor", _scaling("factor"), FLOAT32, needed=False),
    Key(
        "{arch}.rope.scaling.original_context_length",
        _scaling("original_max_position_embeddings", rope_type="yarn"),
        UINT32,
        needed=False,
    ),
    Key(
        "{arch}.rope.scaling.yarn_ext_factor",
        _scaling("extrapolation_factor", rope_type="yarn"),
        FLOAT32,
        needed=False,
    ),
    Key("{arch}.rope.scaling.yarn_attn_factor", _yarn_attention_factor, FLOAT32, needed=False),
    Key("{arch}.rope.scaling.yarn_beta_fast", _scaling("beta_fast", rope_type="yarn"), FLOAT32, needed=False),
    Key("{arch}.rope.scaling.yarn_beta_slow", _scaling("beta_slow", rope_type="yarn"), FLOAT32, needed=False),
    Key("{arch}.rope.dimension_sections", _rope_sections, ARRAY, element=INT32),
    Key("{arch}.rope.freq_base", _rope_theta, FLOAT32),
    Key("{arch}.attention.layer_norm_rms_epsilon", "rms_norm_eps", FLOAT32),
    Key("{arch}.attention.key_length", "head_dim", UINT32),
    Key("{arch}.attention.value_length", "head_dim", UINT32),
    Key("{arch}.ssm.conv_kernel", "linear_conv_kernel_dim", UINT32),
    Key("{arch}.ssm.state_size", "linear_key_head_dim", UINT32),
    Key("{arch}.ssm.group_count", "linear_num_key_heads", UINT32),
    Key("{arch}.ssm.time_step_rank", "linear_num_value_heads", UINT32),
    Key(
        "{arch}.ssm.inner_size",
        lambda c: _need(c, "linear_value_head_dim") * _need(c, "linear_num_value_heads"),
        UINT32,
    ),
    Key("{arch}.attention.recurrent_layers", _recurrent_layers, ARRAY, element=BOOL),
    Key("{arch}.full_attention_interval", interval_of, UINT32),
    Key("{arch}.rope.dimension_count", _rope_dimensions, UINT32),
    Key("{arch}.nextn_predict_layers", lambda c: c["mtp_blocks"] or None, UINT32, needed=False),
)

# In a mixture of experts the dense width is an optional leftover.
FEED_FORWARD_KEYS: dict[str, tuple[Key, ...]] = {
    "qwen35": (Key("{arch}.feed_forward_length", "intermediate_size", UINT32),),
    "qwen35moe": (
        Key("{arch}.feed_forward_length", "intermediate_size", UINT32, needed=False),
        Key("{arch}.expert_count", "num_experts", UINT32),
        Key("{arch}.expert_used_count", "num_experts_per_tok", UINT32),
        Key("{arch}.expert_feed_forward_length", "moe_intermediate_size", UINT32),
        Key("{arch}.expert_shared_feed_forward_length", "shared_expert_intermediate_size", UINT32, needed=False),
    ),
}


def _image_size(config: Config) -> int:
    """Return the side in pixels of the square that the learned position embeddings cover."""
    if config.get("image_size") is not None:
        return int(config["image_size"])
    return int(_need(config, "num_position_embeddings") ** 0.5 * _need(config, "patch_size"))


def _deepstack_layers(config: Config) -> list[bool] | None:
    depth = int(_need(config, "depth"))
    chosen = set(config.get("deepstack_visual_indexes") or ())
    if not chosen <= set(range(depth)):
        raise CheckpointError(f"vision_config.deepstack_visual_indexes {sorted(chosen)} exceed depth = {depth}")
    return [index in chosen for index in range(depth)] or None


# Read from vision_config, joined with `text` (the text model's config) and `images` (the preprocessor's).
VISION_KEYS = (
    Key("clip.has_vision_encoder", lambda _: True, BOOL),
    Key("clip.vision.projection_dim", lambda c: _need(c["text"], "hidden_size"), UINT32),
    Key("clip.vision.image_size", _image_size, UINT32),
    Key("clip.vision.patch_size", "patch_size", UINT32),
    Key("clip.vision.embedding_length", "hidden_size", UINT32),
    Key("clip.vision.feed_forward_length", "intermediate_size", UINT32),
    Key("clip.vision.block_count", "depth", UINT32),
    Key("clip.vision.attention.head_count", "num_heads", UINT32),
    Key("clip.vision.image_mean", lambda c: c["images"].get("image_mean") or [0.5] * 3, ARRAY, element=FLOAT32),
    Key("clip.vision.image_std", lambda c: c["images"].get("image_std") or [0.5] * 3, ARRAY, element=FLOAT32),
    Key("clip.projector_type", lambda _: VisionProjectorType.QWEN3VL, STRING),
    Key("clip.use_gelu", lambda _: True, BOOL),
    Key("clip.vision.spatial_merge_size", "spatial_merge_size", UINT32),
    # The LayerNorms of the vision encoder have no epsilon of their own in the config.
    Key("clip.vision.attention.layer_norm_epsilon", lambda c: c["text"].get("rms_norm_eps", 1e-6), FLOAT32),
    Key("clip.vision.is_deepstack_layers", _deepstack_layers, ARRAY, needed=False, element=BOOL),
)

# generation_config.json -> the sampling defaults that llama.cpp's tools take up.
SAMPLING_KEYS = (
    Key("general.sampling.sequence", "sequence", STRING, needed=False),
    Key("general.sampling.top_k", "top_k", INT32, needed=False),
    Key("general.sampling.top_p", "top_p", FLOAT32, needed=False),
    Key("general.sampling.min_p", "min_p", FLOAT32, needed=False),
    Key("general.sampling.xtc_probability", "xtc_probability", FLOAT32, needed=False),
    Key("general.sampling.xtc_threshold", "xtc_threshold", FLOAT32, needed=False),
    Key("general.sampling.temp", "temperature", FLOAT32, needed=False),
    Key("general.sampling.penalty_last_n", "penalty_last_n", INT32, needed=False),
    Key(
        "general.sampling.penalty_repeat",
        lambda c: c.get("penalty_repeat", c.get("repetition_penalty")),
        FLOAT32,
        needed=False,
    ),
    Key("general.sampling.mirostat", "mirostat", INT32, needed=False),
    Key("general.sampling.mirostat_tau", "mirostat_tau", FLOAT32, needed=False),
    Key("general.sampling.mirostat_eta", "mirostat_eta", FLOAT32, needed=False),
)
