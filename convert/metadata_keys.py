"""The keys of a GGUF file that come from config.json: ``{arch}.*``, ``clip.*`` and ``general.sampling.*``.

Each key is one row of a table: the GGUF key, where its value is in the config, its type. The keys are those of
llama.cpp's converter, read by its ``src/models/qwen35*.cpp`` and ``tools/mtmd/clip.cpp``. Different on purpose:

* the number of MTP blocks is an argument (what the checkpoint contains), not config.json's claim;
* a missing entry is an error instead of a default that transformers would have filled in;
* ``repetition_penalty`` of generation_config.json is kept whichever version of gguf-py is installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from gguf import GGUFValueType, RopeScalingType, VisionProjectorType

from qwen35_gguf.architecture import LINEAR, interval_of, layer_kinds_of
from qwen35_gguf.architecture.config import LAYERS
from qwen35_gguf.convert.config.rope import Rope, read_rope
from qwen35_gguf.convert.transforms import padded_width
from qwen35_gguf.json_file import COUNT, FLAG, NUMBER, SIZE, TEXT, JsonObject, Kind, list_of

UINT32, INT32, FLOAT32 = GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.FLOAT32
BOOL, STRING, ARRAY = GGUFValueType.BOOL, GGUFValueType.STRING, GGUFValueType.ARRAY


@dataclass(frozen=True)
class Sources:
    """Where the values of a table come from.

    Attributes:
        main: the part of a file that the rows name entries of.
        text: the text model's part of config.json.
        images: the settings of the image processor.
        mtp_blocks: blocks of the MTP head that the file will have.
        padded: whether the feed-forward networks of the vision encoder are padded to whole blocks of Q8_0.

    """

    main: JsonObject
    text: JsonObject
    images: JsonObject = field(default_factory=lambda: JsonObject({}, "preprocessor_config.json"))
    mtp_blocks: int = 0
    padded: bool = False

    @cached_property
    def rope(self) -> Rope:
        """The rotary positions of the text model."""
        return read_rope(self.text)


Rule = Callable[[Sources], Any]


class Key(NamedTuple):
    """One row: ``source`` is an entry of the main part, or a function of the sources for what must be computed.

    ``needed`` says whether a config without the value is an error; otherwise the key is left out.
    ``element`` makes it an array of that type.
    """

    key: str
    source: str | Rule
    type: GGUFValueType
    needed: bool = True
    element: GGUFValueType | None = None


def _whole(low: int, high: int) -> Kind[float]:
    """Return the kind of whole numbers in a range. JSON writes 10000000 and 1e7 for the same number."""
    return Kind(
        f"a whole number from {low:,} to {high:,}",
        lambda value: NUMBER.accepts(value) and value == int(value) and low <= value <= high,
    )


# What an entry must be, to become a value of a type.
KINDS: dict[GGUFValueType, Kind[Any]] = {
    UINT32: _whole(0, 2**32 - 1),
    INT32: _whole(-(2**31), 2**31 - 1),
    FLOAT32: Kind("a number", lambda value: NUMBER.accepts(value) and abs(value) < 3.4e38),
    BOOL: FLAG,
    STRING: TEXT,
}


def _recurrent_layers(sources: Sources) -> list[bool]:
    """Return for each block whether it is a delta net; the MTP blocks are full attention."""
    recurrent = [kind == LINEAR for kind in layer_kinds_of(sources.text)]
    return recurrent + [False] * sources.mtp_blocks


def _inner_size(sources: Sources) -> int:
    return sources.text.need("linear_value_head_dim", SIZE) * sources.text.need("linear_num_value_heads", SIZE)


SCALING_TYPES = {"yarn": RopeScalingType.YARN.value, "linear": RopeScalingType.LINEAR.value, None: None}

TEXT_KEYS = (
    Key("{arch}.block_count", lambda s: s.main.need("num_hidden_layers", LAYERS) + s.mtp_blocks, UINT32),
    Key("{arch}.context_length", "max_position_embeddings", UINT32),
    Key("{arch}.embedding_length", "hidden_size", UINT32),
    Key("{arch}.attention.head_count", "num_attention_heads", UINT32),
    Key("{arch}.attention.head_count_kv", "num_key_value_heads", UINT32),
    Key("{arch}.rope.scaling.type", lambda s: SCALING_TYPES[s.rope.scaling], STRING, needed=False),
    Key("{arch}.rope.scaling.factor", lambda s: s.rope.factor, FLOAT32, needed=False),
    Key("{arch}.rope.scaling.original_context_length", lambda s: s.rope.original_context, UINT32, needed=False),
    Key("{arch}.rope.scaling.attn_factor", lambda s: s.rope.attention_factor, FLOAT32, needed=False),
    Key("{arch}.rope.scaling.yarn_beta_fast", lambda s: s.rope.beta_fast, FLOAT32, needed=False),
    Key("{arch}.rope.scaling.yarn_beta_slow", lambda s: s.rope.beta_slow, FLOAT32, needed=False),
    Key("{arch}.rope.dimension_sections", lambda s: list(s.rope.sections), ARRAY, element=INT32),
    Key("{arch}.rope.freq_base", lambda s: s.rope.theta, FLOAT32),
    Key("{arch}.attention.layer_norm_rms_epsilon", "rms_norm_eps", FLOAT32),
    Key("{arch}.attention.key_length", "head_dim", UINT32),
    Key("{arch}.attention.value_length", "head_dim", UINT32),
    Key("{arch}.ssm.conv_kernel", "linear_conv_kernel_dim", UINT32),
    Key("{arch}.ssm.state_size", "linear_key_head_dim", UINT32),
    Key("{arch}.ssm.group_count", "linear_num_key_heads", UINT32),
    Key("{arch}.ssm.time_step_rank", "linear_num_value_heads", UINT32),
    Key("{arch}.ssm.inner_size", _inner_size, UINT32),
    Key("{arch}.attention.recurrent_layers", _recurrent_layers, ARRAY, element=BOOL),
    Key("{arch}.full_attention_interval", lambda s: interval_of(s.text), UINT32),
    Key("{arch}.rope.dimension_count", lambda s: s.rope.dimensions, UINT32),
    Key("{arch}.nextn_predict_layers", lambda s: s.mtp_blocks or None, UINT32, needed=False),
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


def _image_size(sources: Sources) -> int:
    """Return the side in pixels of the square that the learned position embeddings cover.

    An `image_size` beside is not read: the model has as many positions as it has, as in transformers.
    """
    positions = sources.main.need("num_position_embeddings", SIZE)
    return math.isqrt(positions) * sources.main.need("patch_size", SIZE)


def _deepstack_layers(sources: Sources) -> list[bool]:
    depth = sources.main.need("depth", LAYERS)
    chosen = set(sources.main.get("deepstack_visual_indexes", list_of(COUNT), []))
    if not chosen <= set(range(depth)):
        raise sources.main.mistake("deepstack_visual_indexes", f"a list of layers below depth = {depth}")
    return [index in chosen for index in range(depth)]


def _statistic(name: str) -> Rule:
    """Return a reader of one number for each color channel; an image processor without has 0.5."""
    return lambda s: s.images.get(name, list_of(KINDS[FLOAT32])) or [0.5] * 3


def _feed_forward_length(s: Sources) -> int:
    width = s.main.need("intermediate_size", SIZE)
    return padded_width(width) if s.padded else width


# The main part is vision_config.
VISION_KEYS = (
    Key("clip.has_vision_encoder", lambda _: True, BOOL),
    Key("clip.vision.projection_dim", lambda s: s.text.need("hidden_size", SIZE), UINT32),
    Key("clip.vision.image_size", _image_size, UINT32),
    Key("clip.vision.patch_size", "patch_size", UINT32),
    Key("clip.vision.embedding_length", "hidden_size", UINT32),
    Key("clip.vision.feed_forward_length", _feed_forward_length, UINT32),
    Key("clip.vision.block_count", "depth", UINT32),
    Key("clip.vision.attention.head_count", "num_heads", UINT32),
    Key("clip.vision.image_mean", _statistic("image_mean"), ARRAY, element=FLOAT32),
    Key("clip.vision.image_std", _statistic("image_std"), ARRAY, element=FLOAT32),
    Key("clip.projector_type", lambda _: VisionProjectorType.QWEN3VL, STRING),
    Key("clip.use_gelu", lambda _: True, BOOL),
    Key("clip.vision.spatial_merge_size", "spatial_merge_size", UINT32),
    # The LayerNorms of the vision encoder have no epsilon of their own in the config.
    Key(
        "clip.vision.attention.layer_norm_epsilon", lambda s: s.text.get("rms_norm_eps", KINDS[FLOAT32], 1e-6), FLOAT32
    ),
    Key("clip.vision.is_deepstack_layers", _deepstack_layers, ARRAY, needed=False, element=BOOL),
)


def _temperature(sources: Sources) -> float | None:
    """Return the temperature; 0, which is greedy, where sampling is turned off."""
    temperature = sources.main.get("temperature", KINDS[FLOAT32])
    return temperature if sources.main.get("do_sample", FLAG, True) else 0.0


# generation_config.json -> the sampling defaults that llama.cpp's tools take up.
SAMPLING_KEYS = (
    Key("general.sampling.sequence", "sequence", STRING, needed=False),
    Key("general.sampling.top_k", "top_k", INT32, needed=False),
    Key("general.sampling.top_p", "top_p", FLOAT32, needed=False),
    Key("general.sampling.min_p", "min_p", FLOAT32, needed=False),
    Key("general.sampling.xtc_probability", "xtc_probability", FLOAT32, needed=False),
    Key("general.sampling.xtc_threshold", "xtc_threshold", FLOAT32, needed=False),
    Key("general.sampling.temp", _temperature, FLOAT32, needed=False),
    Key("general.sampling.penalty_last_n", "penalty_last_n", INT32, needed=False),
    Key(
        "general.sampling.penalty_repeat",
        lambda s: s.main.get("penalty_repeat", NUMBER, s.main.get("repetition_penalty", NUMBER)),
        FLOAT32,
        needed=False,
    ),
    Key("general.sampling.mirostat", "mirostat", INT32, needed=False),
    Key("general.sampling.mirostat_tau", "mirostat_tau", FLOAT32, needed=False),
    Key("general.sampling.mirostat_eta", "mirostat_eta", FLOAT32, needed=False),
)
