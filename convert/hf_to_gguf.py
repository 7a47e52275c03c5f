"""The pipeline, top to bottom: checkpoint -> tensor_map -> transforms -> recipes -> kernels -> writer.

One pass, whose stages overlap: safetensors are memory-mapped and the system reads ahead of the slabs, slabs of rows are
transformed, a pool of threads quantizes them, and one thread writes behind, in order. At most a few slabs for each
thread are in flight, and mapped pages are given back as soon as they were used, so that memory is bounded by the
largest tensor that has to be permuted, not by the model. (Reading ahead by our own hand was measured: asking for pages
with WILLNEED, POPULATE_READ or SEQUENTIAL made conversions of 0.8B from the disk 0 to 20 % slower.)

Also runs as a script with the arguments of `qwen35 convert`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from qwen35_gguf import progress
from qwen35_gguf.convert import hub, metadata, tensor_map, tokenizer
from qwen35_gguf.convert.checkpoint import Checkpoint, open_checkpoint
from qwen35_gguf.convert.keyvalue import KeyValue
from qwen35_gguf.convert.tensor_map import OutputTensor
from qwen35_gguf.convert.writer import GGUFStream, TensorInfo, check_space, count_parameters
from qwen35_gguf.errors import ImatrixError, OutputError, QuantizationError
from qwen35_gguf.quant import imatrix as matrices
from qwen35_gguf.quant import kernels, recipe_file, recipes

Array = np.ndarray[Any, np.dtype[Any]]

SLAB_ELEMENTS = 1 << 20  # 4 MiB as F32: large enough to hide the calls, small enough to stay in a core's cache share
SLABS_PER_THREAD = 3

VISION_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}


@dataclass(frozen=True)
class PlannedFile:
    """One GGUF to be written: where, which tensors in which types, and its metadata."""

    path: Path
    arch: str
    tensors: tuple[OutputTensor, ...]
    types: tuple[GGMLQuantizationType, ...]
    metadata: tuple[KeyValue, ...]
    parameters: int
    importance: dict[str, Array] = field(default_factory=dict)  # (1 or experts, columns) by tensor

    @property
    def infos(self) -> list[TensorInfo]:
        """The tensors as the GGUF header lists them."""
        return [_info(tensor, type_) for tensor, type_ in zip(self.tensors, self.types, strict=True)]

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data."""
        return sum(info.nbytes for info in self.infos)


@dataclass(frozen=True)
class Conversion:
    """Everything decided before a weight is read: what `--dry-run` prints and `convert` does."""

    checkpoint: Checkpoint
    files: tuple[PlannedFile, ...]
    notes: tuple[str, ...]


def plan(
    model: str | Path,
    quant: str = "Q4_K_M",
    out: str | Path = "models",
    *,
    mtp: bool = True,
    vision: bool = True,
    mmproj_type: str = "BF16",
    revision: str | None = None,
    name: str | None = None,
    recipe: str | Path | None = None,
    imatrix: str | Path | None = None,
) -> Conversion:
    """Decide everything about a conversion from headers alone. Raises Qwen35Error for anything that cannot work."""
    chosen = recipe_file.find(str(recipe), quant) if recipe is not None else None
    mix = chosen.base if chosen else recipes.find_recipe(quant)
    if mmproj_type.upper() not in VISION_TYPES:
        raise QuantizationError(f"--mmproj-type {mmproj_type}: unknown; choose one of {', '.join(VISION_TYPES)}")
    weights = matrices.read(imatrix) if imatrix is not None else None
    directory, repo, commit = hub.resolve(str(model), revision)
    checkpoint = open_checkpoint(directory)
    tensors = tensor_map.plan(checkpoint, mtp=mtp, vision=vision)

    config, text_config = checkpoint.config, checkpoint.text_config
    architecture = recipes.Architecture(
        blocks=int(text_config["num_hidden_layers"]) + tensors.mtp_blocks,
        heads=int(text_config["num_attention_heads"]),
        kv_heads=int(text_config["num_key_value_heads"]),
        experts=int(text_config.get("num_experts") or 0) if checkpoint.arch == "qwen35moe" else 0,
        tied=all(tensor.name != "output.weight" for tensor in tensors.text),
        importance=weights is not None,
    )
    importance = _importance(weights, tensors.text) if weights is not None else {}
    types = tuple(
        _text_type(mix, chosen, tensor, architecture, tensors.mtp_blocks, importance) for tensor in tensors.text
    )
    parameters = _parameters(tensors.text, checkpoint.arch)
    stem = metadata.output_name(directory, name, config, parameters, source_repo=repo)
    files = [
        PlannedFile(
            Path(out) / f"{stem}-{f'{chosen.name}-' if chosen else ''}{mix.name}.gguf",
            checkpoint.arch,
            tensors.text,
            types,
            (
                *metadata.text_metadata(
                    config,
                    directory,
                    arch=checkpoint.arch,
                    mtp_blocks=tensors.mtp_blocks,
                    file_type=int(mix.file_type),
                    name=name,
                    parameters=parameters,
                    source_repo=repo,
                    revision=commit,
                ),
                *tokenizer.vocabulary(directory, int(text_config["vocab_size"])),
                *(metadata.recipe_metadata(chosen) if chosen is not None else ()),
                *(metadata.imatrix_metadata(weights) if weights is not None else ()),
            ),
            parameters[0],
            importance,
        )
    ]
    if tensors.vision:
        file_type = VISION_TYPES[mmproj_type.upper()]
        parameters = _parameters(tensors.vision, "clip")
        files.append(
            PlannedFile(
                Path(out) / f"mmproj-{stem}-{mmproj_type.upper()}.gguf",
                "clip",
                tensors.vision,
                tuple(_vision_type(tensor, mmproj_type.upper()) for tensor in tensors.vision),
                tuple(
                    metadata.vision_metadata(
                        config,
                        directory,
                        file_type=int(file_type),
                        name=name or (repo and repo.rpartition("/")[2]),
                        parameters=parameters,
                    )
                ),
                parameters[0],
            )
        )
    return Conversion(checkpoint, tuple(files), tensors.notes)


def convert(
    model: str | Path,
    quant: str = "Q4_K_M",
    out: str | Path = "models",
    *,
    mtp: bool = True,
    vision: bool = True,
    mmproj_type: str = "BF16",
    revision: str | None = None,
    name: str | None = None,
    recipe: str | Path | None = None,
    imatrix: str | Path | None = None,
    force: bool = False,
    jobs: int = 0,
) -> list[Path]:
    """Convert a checkpoint to GGUF: the text model with its MTP head, and the vision tower as mmproj.

    Args:
        model: a local directory or a Hugging Face Hub id.
        quant: any llama.cpp quantization name.
        out: directory of the results; made if absent.
        mtp: keep the multi-token-prediction head.
        vision: write the vision tower.
        mmproj_type: F32, F16, BF16 or Q8_0 for the matrices of the vision tower.
        revision: branch, tag or commit on the Hub.
        name: the model's name, instead of the one derived from the checkpoint.
        recipe: types for single tensors: a file of `qwen35 recipe`, whose base counts instead of `quant`, or a name of
            recipe_file.BUILT_IN, for the size of `quant`.
        imatrix: an importance matrix of this model, made by `qwen35 imatrix` or llama-imatrix.
        force: replace existing files.
        jobs: threads; 0 for one a core.

    Returns:
        The files written: text first, then mmproj if there is one.

    Raises:
        Qwen35Error: one line about what is wrong, where, and what to do. No file is left behind.

    """
    conversion = plan(
        model,
        quant,
        out,
        mtp=mtp,
        vision=vision,
        mmproj_type=mmproj_type,
        revision=revision,
        name=name,
        recipe=recipe,
        imatrix=imatrix,
    )
    for note in conversion.notes:
        progress.say(f"note: {note}")
    run(conversion, force=force, jobs=jobs)
    return [file.path for file in conversion.files]


def run(conversion: Conversion, *, force: bool = False, jobs: int = 0) -> None:
    """Write the planned files; all of them appear under their names at the end, or none does."""
    write_files(conversion.checkpoint, conversion.files, force=force, jobs=jobs)


def write_files(checkpoint: Checkpoint, files: Sequence[PlannedFile], *, force: bool = False, jobs: int = 0) -> None:
    """Write files of one checkpoint; those with the same tensors, in whatever types, in a single pass over it."""
    for file in files:
        if file.path.exists() and not force:
            raise OutputError(f"{file.path}: exists already; use --force to replace it, or -o for another directory")
    directory = files[0].path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be made ({error.strerror}); choose another with -o") from None
    check_space(directory, sum(file.nbytes for file in files))

    with ExitStack() as stack:
        crew = _hire(stack, jobs)
        streams = [stack.enter_context(GGUFStream(file.path, file.arch, file.infos)) for file in files]
        for arch in dict.fromkeys(file.arch for file in files):
            group = [(file, stream) for file, stream in zip(files, streams, strict=True) if file.arch == arch]
            name = group[0][0].path.name if len(group) == 1 else f"{len(group)} files"
            with progress.progress(sum(file.nbytes for file, _ in group), name) as advance:
                _write_group(checkpoint, group, crew, advance)
            for _, stream in group:
                stream.finish()
        for stream in streams:
            stream.publish()


def peak_memory(conversion: Conversion, jobs: int = 0) -> int:
    """Estimate the peak of resident memory in bytes: the interpreter, the slabs in flight, one permuted tensor."""
    threads = jobs if jobs > 0 else os.cpu_count() or 1
    slabs = threads * SLABS_PER_THREAD * SLAB_ELEMENTS * 8
    permuted = [t.sources for file in conversion.files for t in file.tensors if t.operations]
    stored = conversion.checkpoint.tensors
    largest = max((stored[s].stop - stored[s].start for sources in permuted for s in sources), default=0)
    return 250_000_000 + slabs + 3 * largest


@dataclass(frozen=True)
class Crew:
    """The threads of the stages after the transforms: slabs are packed, packed slabs are written."""

    quantizers: ThreadPoolExecutor
    writer: ThreadPoolExecutor
    window: int  # slabs between the transforms and the disk


@dataclass(frozen=True)
class Slab:
    """Rows of one output tensor on their way to its types: number `index` of the file, matrix `matrix` of it."""

    tensor: str
    rows: Array
    index: int
    matrix: int


def _hire(stack: ExitStack, jobs: int) -> Crew:
    threads = jobs if jobs > 0 else os.cpu_count() or 1
    quantizers, writer = (
        stack.enter_context(ThreadPoolExecutor(count, thread_name_prefix=name))
        for name, count in (("quantize", threads), ("write", 1))
    )
    return Crew(quantizers, writer, threads * SLABS_PER_THREAD)


def _write_group(
    checkpoint: Checkpoint,
    group: Sequence[tuple[PlannedFile, GGUFStream]],
    crew: Crew,
    advance: Callable[[int], None],
) -> None:
    for file, stream in group:
        stream.write_header(file.metadata)
    pending: deque[tuple[Future[Any], Future[None]]] = deque()
    last = group[-1][1]

    def write(stream: GGUFStream, slab: Slab, packed: Future[Array]) -> None:
        data = packed.result()
        stream.write(data)
        if stream is last:
            checkpoint.release(slab.rows)
        advance(data.nbytes)

    try:
        for slab in _slabs(checkpoint, group[0][0].tensors):
            for file, stream in group:
                packed = crew.quantizers.submit(_pack, slab, file.types[slab.index], file.importance.get(slab.tensor))
                pending.append((packed, crew.writer.submit(write, stream, slab, packed)))
                if len(pending) >= crew.window:
                    pending.popleft()[1].result()
        while pending:
            pending.popleft()[1].result()
    finally:
        for packed, written in pending:
            packed.cancel()
            written.cancel()
        wait([written for _, written in pending])  # the file is closed next


def _slabs(checkpoint: Checkpoint, tensors: Sequence[OutputTensor]) -> Iterator[Slab]:
    for index, tensor in enumerate(tensors):
        number = 0
        for block in tensor.blocks(checkpoint):
            # A matrix per leading index, so that slicing rows never copies a strided view of the mapped file.
            for matrix in [block] if block.ndim <= 2 else list(block.reshape(-1, *block.shape[-2:])):
                rows = matrix.reshape(1, -1) if matrix.ndim == 1 else matrix
                step = max(1, SLAB_ELEMENTS // rows.shape[1])
                for start in range(0, rows.shape[0], step):
                    yield Slab(tensor.name, rows[start : start + step], index, number)
                number += 1
        # Operations and FP8 scales made copies, whose slabs cannot be traced back to the mapped pages.
        for source in tensor.sources:
            checkpoint.release_source(source)


def _pack(slab: Slab, type_: GGMLQuantizationType, importance: Array | None) -> Array:
    """Pack rows; importance is (1 or experts, columns), and counts for types of blocks only."""
    known = None if importance is None or GGML_QUANT_SIZES[type_][0] == 1 else importance
    try:
        row = None if known is None else known[slab.matrix if len(known) > 1 else 0]
        return kernels.quantize_rows(slab.rows, type_, row)
    except QuantizationError as error:
        raise QuantizationError(f"{slab.tensor}: {error}") from None


def _text_type(
    recipe: recipes.Recipe,
    chosen: recipe_file.FileRecipe | None,
    tensor: OutputTensor,
    architecture: recipes.Architecture,
    mtp_blocks: int,
    importance: dict[str, Array],
) -> GGMLQuantizationType:
    if tensor.floor is not None:
        return tensor.floor
    ruled = (
        chosen.type_of(tensor.name, tensor.shape, architecture.blocks - mtp_blocks, tied=architecture.tied)
        if chosen
        else None
    )
    type_ = ruled or recipes.tensor_type(recipe, tensor.name, tensor.shape, architecture)
    needed = type_ in recipes.IMPORTANCE_TYPES if ruled else recipes.needs_importance(recipe, tensor.name, type_)
    if needed and tensor.name not in importance:
        what = "the importance matrix has none" if architecture.importance else "give one with --imatrix"
        raise QuantizationError(
            f"{recipe.name} needs an importance matrix for {tensor.name}: {what}, "
            "or choose Q2_K, Q3_K_S, IQ3_S or larger"
        )
    return type_


def _importance(weights: matrices.Imatrix, tensors: Sequence[OutputTensor]) -> dict[str, Array]:
    """Find the importance of each tensor that has one.

    Raises:
        ImatrixError: the matrix is of another model.

    """
    found = {tensor.name: weights.importance(tensor.name, tensor.shape) for tensor in tensors if len(tensor.shape) > 1}
    known = {name: values for name, values in found.items() if values is not None}
    if not known:
        raise ImatrixError(f"{weights.path}: has no entry for any tensor of this model; it is of another one")
    return known


def _vision_type(tensor: OutputTensor, wanted: str) -> GGMLQuantizationType:
    """Choose as the stock converter: patch embeddings stay F32 (F16 in an F16 file), odd rows fall back to F16."""
    if tensor.name.startswith("v.patch_embd.weight"):
        return GGMLQuantizationType.F16 if wanted == "F16" else GGMLQuantizationType.F32
    if tensor.floor is not None:
        return tensor.floor
    if wanted == "Q8_0" and tensor.shape[-1] % 32:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType[wanted]


def _info(tensor: OutputTensor, type_: GGMLQuantizationType) -> TensorInfo:
    rows = 1
    for n in tensor.shape[:-1]:
        rows *= n
    return TensorInfo(tensor.name, tensor.shape, type_, rows * kernels.row_bytes(type_, tensor.shape[-1]))


def _parameters(tensors: Sequence[OutputTensor], arch: str) -> tuple[int, int, int, int]:
    infos = [TensorInfo(tensor.name, tensor.shape, GGMLQuantizationType.F32, 0) for tensor in tensors]
    return count_parameters(arch, infos)


if __name__ == "__main__":
    from qwen35_gguf.convert.command import command

    command()
