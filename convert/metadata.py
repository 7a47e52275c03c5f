"""config.json and the model card -> the metadata of a GGUF file, but for the tokenizer's.

The keys of the model are the tables of `metadata_keys`. Names, license, languages and base models are derived by
``gguf.Metadata``, so that they cannot drift from other tools'. The repository and revision that the checkpoint came
from can be recorded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from gguf import GGML_QUANT_VERSION, GGUFType, GGUFValueType, GGUFWriter, Metadata
from gguf.utility import naming_convention, size_label

from qwen35_gguf.architecture import text_config
from qwen35_gguf.convert.json_file import read_json
from qwen35_gguf.convert.metadata_keys import (
    ARRAY,
    BOOL,
    FEED_FORWARD_KEYS,
    FLOAT32,
    INT32,
    SAMPLING_KEYS,
    STRING,
    TEXT_KEYS,
    UINT32,
    VISION_KEYS,
    Config,
    Key,
    MissingError,
)
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.gguf_file.keyvalue import KeyValue, Scalar
from qwen35_gguf.quant.imatrix import Imatrix
from qwen35_gguf.quant.recipe_file import Recipe

Parameters = tuple[int, int, int, int]

HUB = "https://huggingface.co"


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
        raise CheckpointError(f"{where}: has no vision_config, so there is no vision encoder to describe")
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
    yield from _rows(SAMPLING_KEYS, read_json(where, optional=True), where)


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
        except MissingError as error:
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
        found = read_json(directory / file, optional=True)
        settings |= found | (found.get(nested) or {})
    return settings


def imatrix_metadata(weights: Imatrix) -> list[KeyValue]:
    """Record the importance matrix, as llama-quantize does, and its checksum."""
    dataset = weights.datasets[0] if weights.datasets else "unknown"
    return [
        KeyValue.of("quantize.imatrix.file", weights.path.name if weights.path else "", STRING),
        KeyValue.of("quantize.imatrix.dataset", dataset, STRING),
        KeyValue.of("quantize.imatrix.entries_count", len(weights.entries), UINT32),
        KeyValue.of("quantize.imatrix.chunks_count", weights.chunks, UINT32),
        KeyValue.of("quantize.imatrix.sha256", weights.sha256, STRING),
    ]


def recipe_metadata(recipe: Recipe) -> list[KeyValue]:
    """Record the recipe that chose the types, and its checksum."""
    return [
        KeyValue.of("quantize.recipe.name", recipe.name, STRING),
        KeyValue.of("quantize.recipe.sha256", recipe.sha256, STRING),
    ]
