"""config.json and the model card -> the metadata of a GGUF file, but for the tokenizer's.

The keys of the model are the tables of `metadata_keys`. Names, license, languages and base models are derived by
``gguf.Metadata``, so that they cannot drift from other tools'. The repository and revision that the checkpoint came
from can be recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_VERSION, GGUFType, GGUFValueType, GGUFWriter, LlamaFileType, Metadata

from qwen35_gguf.architecture import text_section
from qwen35_gguf.architecture.config import Config
from qwen35_gguf.convert import model_name
from qwen35_gguf.convert.front_matter import read_front_matter
from qwen35_gguf.convert.metadata_keys import (
    ARRAY,
    FEED_FORWARD_KEYS,
    FLOAT32,
    INT32,
    KINDS,
    SAMPLING_KEYS,
    STRING,
    TEXT_KEYS,
    UINT32,
    VISION_KEYS,
    Key,
    Sources,
)
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.gguf_file.keyvalue import KeyValue, Scalar
from qwen35_gguf.json_file import JsonObject, list_of, read_json, shown
from qwen35_gguf.quant.imatrix import Imatrix
from qwen35_gguf.quant.recipe_file import Recipe

Parameters = tuple[int, int, int, int]

HUB = "https://huggingface.co"

VISION_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}


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
    text = text_section(config, str(where))
    return [
        *_general(config, directory, arch, GGUFType.MODEL, name, parameters, source_repo, revision),
        *_rows((*TEXT_KEYS, *FEED_FORWARD_KEYS[arch]), Sources(text, text, mtp_blocks=mtp_blocks), arch=arch),
        *_format(file_type),
    ]


def vision_metadata(
    config: Config, directory: Path, *, file_type: int, name: str | None, parameters: Parameters, padded: bool = False
) -> list[KeyValue]:
    """Return the metadata of the vision file (architecture ``clip``); arguments and errors as for ``text_metadata``.

    ``padded``: its feed-forward networks are padded to whole blocks of Q8_0.
    """
    where = directory / "config.json"
    vision = JsonObject(config, str(where)).section("vision_config")
    if not vision.values:
        raise CheckpointError(f"{where}: has no vision_config, so there is no vision encoder to describe")
    sources = Sources(vision, text_section(config, str(where)), _image_settings(directory), padded=padded)
    return [
        *_general(config, directory, "clip", GGUFType.MMPROJ, name, parameters, None, None),
        *_rows(VISION_KEYS, sources),
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
    return model_name.file_stem(card, parameters, with_size=with_size)


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

    yield from _sampling(config, directory)


def _sampling(config: Config, directory: Path) -> Iterator[KeyValue]:
    """Yield the sampling defaults: of generation_config.json, and only without that file of config.json."""
    path = directory / "generation_config.json"
    text = text_section(config, str(directory / "config.json"))
    whole = replace(text.fallback, fallback=replace(text, fallback=None)) if text.fallback else text
    settings = read_json(path) if path.is_file() else whole
    yield from _rows(SAMPLING_KEYS, Sources(settings, text))


def _element(values: list[Scalar]) -> GGUFValueType:
    return GGUFValueType(GGUFValueType.get_type(values[0]))


def _format(file_type: int) -> Iterator[KeyValue]:
    yield KeyValue.of("general.file_type", int(file_type), UINT32)
    yield KeyValue.of("general.quantization_version", GGML_QUANT_VERSION, UINT32)


def _describe(
    config: Config, directory: Path, name: str | None, parameters: Parameters, source_repo: str | None
) -> Metadata:
    """Return name, size, licence and so on, from the model card, the config, and the folder's name in that order."""
    directory = model_name.absolute(directory)
    card = read_front_matter(directory)
    hints = {**config, "_name_or_path": source_repo or model_name.usable_hint(config.get("_name_or_path"))}
    named = Path(model_name.named_directory(directory))
    found = Metadata.apply_metadata_heuristic(Metadata(), card, hints, named, parameters[0])
    model_name.without_repeats(found, card)
    if name is not None:
        found.name = name
    elif found.name is None:
        found.name = named.name
    if found.size_label is None:
        found.size_label = model_name.computed_size(parameters)
    # An empty list has no element type in GGUF.
    found.tags, found.languages = found.tags or None, found.languages or None
    return found


def _rows(keys: tuple[Key, ...], sources: Sources, **names: str) -> Iterator[KeyValue]:
    """Yield the entries of a table."""
    for row in keys:
        key = row.key.format(**names)
        kind = KINDS[row.element if row.element is not None else row.type]
        kind = list_of(kind) if row.element is not None else kind
        if not isinstance(row.source, str):
            value = row.source(sources)
            if value is not None and kind.fault(value, ""):
                raise CheckpointError(f"{sources.main.where}: {key} would be {shown(value)}; must be {kind.name}")
        elif row.needed:
            value = sources.main.need(row.source, kind, key)
        else:
            value = sources.main.get(row.source, kind)
        if value is not None:
            cast = _cast(value, row.type) if row.element is None else [_cast(item, row.element) for item in value]
            yield KeyValue.of(key, cast, row.type, row.element)


def _cast(value: Any, kind: GGUFValueType) -> Scalar:
    """Return the value as its GGUF type holds it: a number that is in range already."""
    if kind == FLOAT32:
        return float(value)
    result: Scalar = int(value) if kind in (UINT32, INT32) else value
    return result


def _image_settings(directory: Path) -> JsonObject:
    """Return the image processor's settings: those nested in processor_config.json, else preprocessor_config.json.

    transformers takes the one or the other, without merging them.
    """
    processor = read_json(directory / "processor_config.json", optional=True)
    if "image_processor" in processor:
        return processor.section("image_processor")
    return read_json(directory / "preprocessor_config.json", optional=True)


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
