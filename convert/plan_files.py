"""What files there will be: where, which tensors in which types, and their metadata, before a weight is read.

`plan_conversion` decides about a conversion. A release, which makes many files of one checkpoint, uses the pieces: what
all files share (`Source`: headers, vocabulary, importance) is read once, then each file is planned alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from qwen35_gguf.architecture import Architecture
from qwen35_gguf.convert import hub, metadata
from qwen35_gguf.convert.adapters.adapter_folder import Adapter, open_adapters
from qwen35_gguf.convert.adapters.adapter_metadata import file_label, with_adapters
from qwen35_gguf.convert.adapters.merging import merge_adapters
from qwen35_gguf.convert.checkpoint import Checkpoint, open_checkpoint
from qwen35_gguf.convert.config.check import check_text, check_vision
from qwen35_gguf.convert.importance import importance_notes, importance_of
from qwen35_gguf.convert.rounding import Rounding, open_rounding
from qwen35_gguf.convert.source_tensors.parts import ALL, Parts
from qwen35_gguf.convert.tensor_plan import OutputTensor, TensorPlan, count_parameters, plan_tensors
from qwen35_gguf.convert.tokenizer.vocabulary import Vocabulary, read_vocabulary
from qwen35_gguf.errors import QuantizationError
from qwen35_gguf.gguf_file.header import TensorInfo
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.json_file import printable
from qwen35_gguf.quant import imatrix as matrices
from qwen35_gguf.quant import presets, recipe_file, tensor_types
from qwen35_gguf.quant.rounding.moments import Method

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ConversionOptions:
    """What to convert, and into which files.

    Attributes:
        model: a local directory or a Hugging Face Hub id.
        quant: any llama.cpp quantization name.
        out: directory of the results; made if absent.
        mtp: keep the multi-token-prediction head.
        vision: write the vision encoder.
        mmproj_type: F32, F16, BF16 or Q8_0 for the matrices of the vision encoder.
        revision: branch, tag or commit on the Hub.
        name: the model's name, instead of the one derived from the checkpoint.
        recipe: types for single tensors: a file of `qwen35 recipe`, whose base counts instead of `quant`, or a name of
            recipe_file.BUILT_IN, in its variant for `quant`.
        imatrix: an importance matrix of this model, made by `qwen35 imatrix` or llama-imatrix.
        ignore_config: keys of config.json that are read as if they were not there, by name or path.
        adapters: PEFT LoRAs, directories or Hub ids, to be merged in this order.
        adapter_scales: one for each adapter; by default 1.
        rounding: by second moments: block or full; None: each block alone.
        moments: for `rounding`, made by `qwen35 imatrix --moments`; without `imatrix` also the importance matrix.

    """

    model: str | Path
    quant: str = "Q4_K_M"
    out: str | Path = "models"
    mtp: bool = True
    vision: bool = True
    mmproj_type: str = "Q8_0"
    revision: str | None = None
    name: str | None = None
    recipe: str | Path | None = None
    imatrix: str | Path | None = None
    ignore_config: Sequence[str] = ()
    adapters: tuple[str | Path, ...] = ()
    adapter_scales: tuple[float, ...] = ()
    rounding: Method | None = None
    moments: str | Path | None = None


@dataclass(frozen=True)
class PlannedFile:
    """One GGUF to be written.

    Attributes:
        path: where.
        arch: `general.architecture`.
        tensors: in the order of the file.
        types: of the tensors, in the same order.
        metadata: in the order of the file.
        parameters: weights, for bits per weight.
        importance: (1 or experts, columns) float32 by tensor, of an importance matrix.
        notes: what to tell the user, one line each.
        rounding: how weights are rounded; None: each block alone.

    """

    path: Path
    arch: str
    tensors: tuple[OutputTensor, ...]
    types: tuple[GGMLQuantizationType, ...]
    metadata: tuple[KeyValue, ...]
    parameters: int
    importance: dict[str, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rounding: Rounding | None = None

    @property
    def infos(self) -> list[TensorInfo]:
        """The tensors as the GGUF header lists them."""
        return [TensorInfo(t.name, t.shape, type_) for t, type_ in zip(self.tensors, self.types, strict=True)]

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data."""
        return sum(info.nbytes for info in self.infos)


@dataclass(frozen=True)
class Conversion:
    """Everything that is decided before a weight is read: `--dry-run` prints it, `convert` carries it out."""

    checkpoint: Checkpoint
    files: tuple[PlannedFile, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A checkpoint, and what all files that are made of it share.

    Attributes:
        checkpoint: its configuration, and the headers of its weights.
        repo: its id on the Hub; None for a local directory.
        commit: the revision that was downloaded.
        name: of the model; None: derived from the checkpoint.
        weights: an importance matrix, None without one.
        adapters: that are merged into the checkpoint.
        rounding: by second moments; None: each block alone.

    """

    checkpoint: Checkpoint
    repo: str | None = None
    commit: str | None = None
    name: str | None = None
    weights: matrices.Imatrix | None = None
    adapters: tuple[Adapter, ...] = ()
    rounding: Rounding | None = None

    @functools.cached_property
    def tensors(self) -> TensorPlan:
        """All tensors that can be made."""
        return plan_tensors(self.checkpoint)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's metadata; for the vocabulary of Qwen3.5 this takes most of a second."""
        return read_vocabulary(self.checkpoint.directory, self.tensors.architecture.vocab_size)

    @functools.cached_property
    def importance(self) -> dict[str, Array]:
        """The importance of each tensor that has one.

        Raises:
            ImatrixError: the matrix is of another model.

        """
        return importance_of(self.weights, self.tensors.text) if self.weights is not None else {}

    def stem(self, tensors: Sequence[OutputTensor]) -> str:
        """Name the text model of these tensors by the GGUF naming convention, without what it is quantized to."""
        parameters = count_parameters(tensors)
        directory, config = self.checkpoint.directory, self.checkpoint.config
        stem = metadata.output_name(directory, self.name, config, parameters, source_repo=self.repo)
        return f"{stem}-{file_label(self.adapters)}" if self.adapters and self.name is None else stem

    def described(self, entries: Sequence[KeyValue]) -> tuple[KeyValue, ...]:
        """Add what was merged to the metadata of a file."""
        return with_adapters(entries, self.adapters, repo=self.repo, named=self.name is not None)


def open_source(
    model: str | Path,
    *,
    revision: str | None = None,
    name: str | None = None,
    imatrix: str | Path | None = None,
    parts: Parts = ALL,
    ignore_config: Sequence[str] = (),
    adapters: Sequence[str | Path] = (),
    adapter_scales: Sequence[float] = (),
    rounding: Method | None = None,
    moments: str | Path | None = None,
) -> Source:
    """Find a checkpoint, downloading it if it is a Hub id; check config.json and the headers of the wanted parts.

    Raises:
        Qwen35Error: it is missing, damaged, not Qwen3.5, or config.json asks for what a GGUF would not compute; or the
            importance matrix cannot be read.

    """
    weights = matrices.read(imatrix) if imatrix is not None else None
    chosen = open_rounding(rounding, moments)
    merged = open_adapters(adapters, adapter_scales)
    directory, repo, commit = hub.resolve(str(model), revision, parts)
    checkpoint = open_checkpoint(directory, parts, ignore_config)
    checkpoint.notes += check_text(checkpoint.config, str(directory / "config.json"))
    source = Source(merge_adapters(checkpoint, merged, repo or ""), repo, commit, name, weights, tuple(merged), chosen)
    if chosen is None:
        return source
    chosen.check_model(source.checkpoint, source.tensors.text)
    known = weights or chosen.moments.importance(tensor.name for tensor in source.tensors.text)
    return replace(source, weights=known)


def plan_conversion(options: ConversionOptions) -> Conversion:
    """Decide everything about a conversion from headers alone. Raises Qwen35Error for anything that cannot work."""
    o, out = options, Path(options.out)
    check_names(o.quant, o.recipe, o.mmproj_type)  # before anything is downloaded
    source = open_source(
        o.model,
        revision=o.revision,
        name=o.name,
        imatrix=o.imatrix,
        parts=Parts(mtp=o.mtp, vision=o.vision),
        ignore_config=o.ignore_config,
        adapters=o.adapters,
        adapter_scales=o.adapter_scales,
        rounding=o.rounding,
        moments=o.moments,
    )
    files = [text_file(source, o.quant, out, mtp=o.mtp, recipe=o.recipe)]
    if source.tensors.vision:
        files.append(vision_file(source, o.mmproj_type, out, stem=source.stem(files[0].tensors)))
    notes = (*source.tensors.notes, *source.vocabulary.notes, *(note for file in files for note in file.notes))
    return Conversion(source.checkpoint, tuple(files), notes)


def check_names(quant: str, recipe: str | Path | None = None, mmproj_type: str = "Q8_0") -> None:
    """Refuse an unknown preset, recipe, or type of a vision encoder.

    Raises:
        QuantizationError: a name is unknown.
        RecipeError: the recipe is missing or malformed.

    """
    _find_types(quant, recipe)
    if mmproj_type.upper() not in metadata.VISION_TYPES:
        raise QuantizationError(
            f"--mmproj-type {printable(mmproj_type)}: unknown; choose one of {', '.join(metadata.VISION_TYPES)}"
        )


def text_file(
    source: Source, quant: str, out: Path, *, mtp: bool = True, recipe: str | Path | None = None
) -> PlannedFile:
    """Plan the text model in `quant`.

    Args:
        source: the checkpoint.
        quant: any llama.cpp quantization name.
        out: the file's directory.
        mtp: with the multi-token-prediction head, if the checkpoint has one.
        recipe: as of `ConversionOptions`.

    Raises:
        QuantizationError: the name is unknown, or a type needs an importance matrix that is missing.
        RecipeError: the recipe is missing or malformed.
        ImatrixError: the importance matrix is of another model.

    """
    chosen, preset = _find_types(quant, recipe)
    checkpoint = source.checkpoint
    found = source.tensors if mtp else plan_tensors(checkpoint, Parts(mtp=False))
    importance = {
        tensor.name: source.importance[tensor.name] for tensor in found.text if tensor.name in source.importance
    }
    known = importance if source.weights is not None else None
    types, lacking = _text_types(preset, chosen, found, known)
    if source.rounding is not None:
        source.rounding.check_types({tensor.name: type_ for tensor, type_ in zip(found.text, types, strict=True)})
    parameters = count_parameters(found.text)
    label = f"{chosen.name}-" if chosen else ""
    return PlannedFile(
        out / f"{source.stem(found.text)}-{label}{preset.name}.gguf",
        checkpoint.arch,
        found.text,
        types,
        (
            *source.described(
                metadata.text_metadata(
                    checkpoint.config,
                    checkpoint.directory,
                    arch=checkpoint.arch,
                    mtp_blocks=found.architecture.mtp_blocks,
                    file_type=int(preset.file_type),
                    name=source.name,
                    parameters=parameters,
                    source_repo=source.repo,
                    revision=source.commit,
                )
            ),
            *source.vocabulary.entries,
            *(metadata.recipe_metadata(chosen) if chosen is not None else ()),
            *(metadata.imatrix_metadata(source.weights) if source.weights is not None else ()),
            *(source.rounding.metadata() if source.rounding is not None else ()),
        ),
        parameters[0],
        importance,
        importance_notes(source.weights, found, types, lacking) if source.weights is not None else (),
        source.rounding,
    )


def vision_file(source: Source, type_: str, out: Path, *, stem: str) -> PlannedFile:
    """Plan the vision encoder, whose matrices are F32, F16, BF16 or Q8_0; `stem` is the text model's name."""
    wanted, tensors, config = type_.upper(), source.tensors.vision, source.checkpoint.config
    check_vision(config, str(source.checkpoint.directory / "config.json"))
    parameters = count_parameters(tensors)
    if padded := wanted == "Q8_0":
        tensors = plan_tensors(source.checkpoint, Parts(text=False, mtp=False), pad_vision=True).vision
    return PlannedFile(
        out / f"mmproj-{stem}-{wanted}.gguf",
        "clip",
        tensors,
        tuple(tensor_types.vision_type(tensor.name, tensor.shape, wanted, tensor.fixed) for tensor in tensors),
        source.described(
            metadata.vision_metadata(
                config,
                source.checkpoint.directory,
                file_type=int(metadata.VISION_TYPES[wanted]),
                name=source.name or (source.repo and source.repo.rpartition("/")[2]),
                parameters=parameters,
                padded=padded,
            )
        ),
        parameters[0],
    )


def _find_types(quant: str, recipe: str | Path | None) -> tuple[recipe_file.Recipe | None, presets.Preset]:
    chosen = recipe_file.find(str(recipe), quant) if recipe is not None else None
    return chosen, chosen.base if chosen else presets.find_preset(quant)


def _text_types(
    preset: presets.Preset, recipe: recipe_file.Recipe | None, plan: TensorPlan, importance: dict[str, Array] | None
) -> tuple[tuple[GGMLQuantizationType, ...], list[str]]:
    """Choose the types, and list the tensors that have another one because the importance matrix lacks them."""
    types, lacking = [], []
    for tensor in plan.text:
        type_, needed = _text_type(preset, recipe, tensor, plan.architecture, imatrix=importance is not None)
        if needed and importance is None:
            raise QuantizationError(
                f"{preset.name} needs an importance matrix for {tensor.name}: give one with --imatrix, "
                "or choose Q2_K, Q3_K_S, IQ3_S or larger"
            )
        if needed and tensor.name not in (importance or {}):
            lacking.append(tensor.name)
            type_ = tensor_types.without_imatrix(type_, tensor.shape[-1])
        types.append(type_)
    return tuple(types), lacking


def _text_type(
    preset: presets.Preset,
    recipe: recipe_file.Recipe | None,
    tensor: OutputTensor,
    architecture: Architecture,
    *,
    imatrix: bool,
) -> tuple[GGMLQuantizationType, bool]:
    """Choose a tensor's type, and tell whether that needs an importance matrix."""
    if tensor.fixed is not None:
        return tensor.fixed, False
    ruled = recipe.type_of(tensor.name, tensor.shape, architecture.layers, tied=architecture.tied) if recipe else None
    if ruled:
        type_, needed = ruled, presets.FORMATS[ruled].imatrix != "optional"
    else:
        type_ = tensor_types.tensor_type(preset, tensor.name, tensor.shape, architecture, imatrix=imatrix)
        needed = tensor_types.needs_imatrix(preset, tensor.name, type_)
    return type_, needed
