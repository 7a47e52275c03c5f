"""config.json and the model card -> the ``general.*``, ``{arch}.*`` and ``clip.*`` keys of a GGUF file.

Each model key is one row of a table: the GGUF key, where its value is in the config, its type. The keys are those of
llama.cpp's converter, read by its ``src/models/qwen35*.cpp`` and ``tools/mtmd/clip.cpp``. Different on purpose:

* the number of MTP blocks is an argument (what the checkpoint contains), not config.json's claim;
* a missing entry is an error instead of a default that transformers would have filled in;
* ``repetition_penalty`` of generation_config.json is kept whichever version of gguf-py is installed;
* the repository and revision that the checkpoint came from can be recorded.

Names, licence, languages and base models are derived by ``gguf.Metadata``, so that they cannot drift from other tools'.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from gguf import GGML_QUANT_VERSION, GGUFType, GGUFValueType, GGUFWriter, Metadata, RopeScalingType, VisionProjectorType
from gguf.utility import naming_convention, size_label

from qwen35_gguf.architecture import LINEAR, interval_of, layer_kinds_of, text_config
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.gguf_file.keyvalue import KeyValue, Scalar
from qwen35_gguf.quant.imatrix import Imatrix
from qwen35_gguf.quant.recipe_file import Recipe

UINT32, INT32, FLOAT32 = GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.FLOAT32
BOOL, STRING, ARRAY = GGUFValueType.BOOL, GGUFValueType.STRING, GGUFValueType.ARRAY

Config = Mapping[str, Any]
Parameters = tuple[int, int, int, int]
Rule = Callable[[Config], Any]

HUB = "https://huggingface.co"


class Key(NamedTuple):
    """One row: ``source`` is an entry of the config, or a function of the config for what has to be worked out.

    ``needed`` says whether a config without the value is an error; otherwise the key is left out.
    ``element`` makes it an array of that type.
    """

    key: str
    source: str | Rule
    type: GGUFValueType
    needed: bool = True
    element: GGUFValueType | None = None


class _MissingError(KeyError):
    """An entry that a row needs is not in the config."""


def _need(config: Config, name: str) -> Any:
    if config.get(name) is None:
        raise _MissingError(name)
    return config[name]


# --- what has to be worked out ------------------------------------------------------------------------------------


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
        raise _MissingError("rope_parameters.rope_theta")
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
            raise _MissingError(f"rope_parameters.{name}")
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


# --- the tables ---------------------------------------------------------------------------------------------------

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
    # The tower's LayerNorms have no epsilon of their own in the config.
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


# --- the public functions -----------------------------------------------------------------------------------------


def text_metadata(
    config: Config,
    directory: Path,
    *,
    arch: str,
    mtp_blocks: int,
    file_type: int,
    name: str | None,
    parameters: Parameters,
    source_repo: str | None = None,
    revision: str | None = None,
) -> list[KeyValue]:
    """Return the metadata of the text model, ``general.architecture`` first; the tokenizer's keys are not among it.

    Args:
        config: The parsed config.json, nested (``text_config``) or flat.
        directory: The checkpoint, for README.md and generation_config.json.
        arch: ``qwen35`` or ``qwen35moe``.
        mtp_blocks: How many MTP blocks the file will hold; 0 leaves ``nextn_predict_layers`` out.
        file_type: The ``LlamaFileType`` of the recipe.
        name: ``general.name``; None derives it.
        parameters: Total, shared, expert and expert count, as ``GGUFWriter.get_total_parameter_count`` gives them.
        source_repo: ``owner/name`` on the Hub where the checkpoint came from.
        revision: Its commit.

    Raises:
        CheckpointError: config.json lacks an entry or has one of the wrong kind, or a side file cannot be read.

    """
    where = directory / "config.json"
    if arch not in FEED_FORWARD_KEYS:
        raise CheckpointError(
            f"{where}: the architecture {arch!r} is unknown; known are {', '.join(FEED_FORWARD_KEYS)}"
        )
    text = {**text_config(config), "mtp_blocks": mtp_blocks}
    return [
        *_general(config, directory, arch, GGUFType.MODEL, name, parameters, source_repo, revision),
        *_rows((*TEXT_KEYS, *FEED_FORWARD_KEYS[arch]), text, where, arch=arch),
        *_format(file_type),
    ]


def vision_metadata(
    config: Config, directory: Path, *, file_type: int, name: str | None, parameters: Parameters
) -> list[KeyValue]:
    """Return the metadata of the vision file (architecture ``clip``); arguments and errors as for ``text_metadata``."""
    where = directory / "config.json"
    if not isinstance(config.get("vision_config"), dict):
        raise CheckpointError(f"{where}: has no vision_config, so there is no vision tower to describe")
    vision = {
        **config["vision_config"],
        "text": text_config(config),
        "images": _image_settings(directory),
    }
    return [
        *_general(config, directory, "clip", GGUFType.MMPROJ, name, parameters, None, None),
        *_rows(VISION_KEYS, vision, where),
        *_format(file_type),
    ]


def output_name(
    directory: Path,
    name: str | None,
    config: Config,
    parameters: Parameters,
    *,
    source_repo: str | None = None,
    with_size: bool = True,
) -> str:
    """Return BaseName-SizeLabel-FineTune-Version, to which the caller adds ``-QUANT.gguf``.

    ``with_size`` False leaves the size out, as is usual behind ``mmproj-``.
    See https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#gguf-naming-convention.
    """
    card = _describe(config, directory, name, parameters, source_repo)
    size = card.size_label if with_size else None
    return str(naming_convention(card.name, card.basename, card.finetune, card.version, size, None))


# --- how they are made --------------------------------------------------------------------------------------------


def _general(
    config: Config,
    directory: Path,
    arch: str,
    kind: str,
    name: str | None,
    parameters: Parameters,
    source_repo: str | None,
    revision: str | None,
) -> Iterator[KeyValue]:
    card = _describe(config, directory, name, parameters, source_repo)
    if source_repo:
        card.source_repo_url = f"{HUB}/{source_repo}"
        card.source_url = f"{HUB}/{source_repo}/tree/{revision}" if revision else card.source_repo_url

    # A writer without a path only collects; its first entry is general.architecture.
    collected = GGUFWriter(path=None, arch=arch)
    collected.add_type(kind)
    card.set_gguf_meta_model(collected)
    for key, entry in collected.kv_data[0].items():
        yield KeyValue.of(key, entry.value, entry.type, _element(entry.value) if entry.type == ARRAY else None)

    where = directory / "generation_config.json"
    yield from _rows(SAMPLING_KEYS, _read_json(where), where)


def _element(values: list[Scalar]) -> GGUFValueType:
    return GGUFValueType(GGUFValueType.get_type(values[0]))


def _format(file_type: int) -> Iterator[KeyValue]:
    yield KeyValue.of("general.file_type", int(file_type), UINT32)
    yield KeyValue.of("general.quantization_version", GGML_QUANT_VERSION, UINT32)


def _describe(
    config: Config, directory: Path, name: str | None, parameters: Parameters, source_repo: str | None
) -> Metadata:
    """Return name, size, licence and so on, from the model card, the config, and the folder's name in that order."""
    # `.` and `..` have no name of their own. Symbolic links are kept: their name was chosen, their target's was not.
    directory = Path(os.path.abspath(directory))  # noqa: PTH100 - Path.absolute keeps `..`
    try:
        card = Metadata.load_model_card(directory)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{directory / 'README.md'}: the front matter cannot be read ({reason}); fix or remove it"
        ) from error
    # A snapshot in the Hub's cache is a folder named after a commit: the repository's name is the better one.
    hints = {**config, "_name_or_path": source_repo} if source_repo else dict(config)
    found = Metadata.apply_metadata_heuristic(Metadata(), card, hints, directory, parameters[0])
    if name is not None:
        found.name = name
    elif found.name is None:
        found.name = directory.name
    if found.size_label is None and parameters[0] > 0:
        found.size_label = size_label(*parameters)
    # An empty list has no element type in GGUF.
    found.tags, found.languages = found.tags or None, found.languages or None
    return found


def _rows(keys: tuple[Key, ...], config: Config, where: Path, **names: str) -> Iterator[KeyValue]:
    """Yield the entries of a table; ``where`` is the file that errors name."""
    for row in keys:
        key = row.key.format(**names)
        try:
            value = row.source(config) if callable(row.source) else config.get(row.source)
        except _MissingError as error:
            raise CheckpointError(f"{where}: {error.args[0]} is missing; {key} needs it") from None
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{where}: {key} cannot be worked out ({error})") from error
        if value is None:
            if row.needed:
                raise CheckpointError(f"{where}: {row.source} is missing; {key} needs it")
            continue
        if row.element is not None:
            if not isinstance(value, list) or not value:
                raise CheckpointError(f"{where}: {key} is {value!r}, expected a list")
            value = [_cast(item, row.element, key, where) for item in value]
        else:
            value = _cast(value, row.type, key, where)
        yield KeyValue.of(key, value, row.type, row.element)


def _cast(value: Any, kind: GGUFValueType, key: str, where: Path) -> Scalar:
    """Return the value as its GGUF type holds it; JSON writes 10000000 and 1e7 for the same number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == FLOAT32 and number and math.isfinite(value):
        return float(value)
    if kind in (UINT32, INT32) and number and value == int(value):
        low, high = (0, 2**32) if kind == UINT32 else (-(2**31), 2**31)
        if low <= value < high:
            return int(value)
    if kind == BOOL and isinstance(value, bool):
        return value
    if kind == STRING and isinstance(value, str):
        return str(value)
    raise CheckpointError(f"{where}: {key} is {value!r}, which is not a valid {kind.name.lower()}")


def _image_settings(directory: Path) -> dict[str, Any]:
    """Return the image processor's settings: preprocessor_config.json, overruled by processor_config.json."""
    settings: dict[str, Any] = {}
    for file, nested in (("preprocessor_config.json", "media_proc_cfg"), ("processor_config.json", "image_processor")):
        found = _read_json(directory / file)
        settings |= found | (found.get(nested) or {})
    return settings


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in an optional JSON file, ``{}`` when it is absent."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected an object")
    return value


def imatrix_metadata(weights: Imatrix) -> list[KeyValue]:
    """Say which importance matrix was used, as llama-quantize does, and its checksum."""
    dataset = weights.datasets[0] if weights.datasets else "unknown"
    return [
        KeyValue.of("quantize.imatrix.file", weights.path.name if weights.path else "", STRING),
        KeyValue.of("quantize.imatrix.dataset", dataset, STRING),
        KeyValue.of("quantize.imatrix.entries_count", len(weights.entries), UINT32),
        KeyValue.of("quantize.imatrix.chunks_count", weights.chunks, UINT32),
        KeyValue.of("quantize.imatrix.sha256", weights.sha256, STRING),
    ]


def recipe_metadata(recipe: Recipe) -> list[KeyValue]:
    """Say which recipe decided the types, and its checksum."""
    return [
        KeyValue.of("quantize.recipe.name", recipe.name, STRING),
        KeyValue.of("quantize.recipe.sha256", recipe.sha256, STRING),
    ]
