"""The pipeline, top to bottom: checkpoint -> tensor_map -> transforms -> presets -> kernels -> writer.

One pass, whose stages overlap: safetensors are memory-mapped and the system reads ahead of the slabs, slabs of rows are
transformed, a pool of threads quantizes them, and one thread writes behind, in order. At most a few slabs for each
thread are in flight, and mapped pages are given back as soon as they were used, so that memory is bounded by the
largest tensor that must be permuted, not by the model. (Reading ahead by hand was measured: asking for pages with
WILLNEED, POPULATE_READ or SEQUENTIAL made conversions of 0.8B from the disk 0 to 20 % slower.)

Also runs as a script with the arguments of `qwen35 convert`.
"""

from __future__ import annotations

import filecmp
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf import progress
from qwen35_gguf.atomic_file import check_space
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.plan_files import Conversion, ConversionOptions, PlannedFile, plan_conversion
from qwen35_gguf.convert.rounding import Rounding
from qwen35_gguf.convert.tensor_plan import OutputTensor
from qwen35_gguf.convert.weights_digest import WeightsDigest
from qwen35_gguf.errors import OutputError, QuantizationError
from qwen35_gguf.gguf_file.writer import GGUFStream
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding.moments import Method
from qwen35_gguf.quant.rounding.round_rows import InputMoments, round_rows

__all__ = ["Conversion", "ConversionOptions", "PlannedFile", "convert", "plan_conversion", "run", "write_files"]

Array = np.ndarray[Any, np.dtype[Any]]

SLAB_ELEMENTS = 1 << 20  # 4 MiB as F32: large enough to hide the calls, small enough to stay in a core's cache share
SLABS_PER_THREAD = 3


def convert(
    model: str | Path,
    quant: str = "Q4_K_M",
    out: str | Path = "models",
    *,
    mtp: bool = True,
    vision: bool = True,
    mmproj_type: str = "Q8_0",
    revision: str | None = None,
    name: str | None = None,
    recipe: str | Path | None = None,
    imatrix: str | Path | None = None,
    ignore_config: Sequence[str] = (),
    adapters: Sequence[str | Path] = (),
    adapter_scales: Sequence[float] = (),
    rounding: Method | None = None,
    moments: str | Path | None = None,
    force: bool = False,
    jobs: int = 0,
) -> list[Path]:
    """Convert a checkpoint to GGUF: the text model with its MTP head, and the vision encoder as mmproj.

    Args:
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
        rounding: by second moments, block or full; None: each block alone.
        moments: for `rounding`, made by `qwen35 imatrix --moments`.
        force: replace existing files. An existing vision encoder with the same bytes is kept without it.
        jobs: threads; 0 for one per core.

    Returns:
        The files: text first, then mmproj if there is one.

    Raises:
        Qwen35Error: one line about what is wrong, where, and what to do. No file is left behind.

    """
    conversion = plan_conversion(
        ConversionOptions(
            model,
            quant,
            out,
            mtp,
            vision,
            mmproj_type,
            revision,
            name,
            recipe,
            imatrix,
            ignore_config,
            tuple(adapters),
            tuple(adapter_scales),
            rounding,
            moments,
        )
    )
    for note in conversion.notes:
        progress.say(f"note: {note}")
    run(conversion, force=force, jobs=jobs)
    return [file.path for file in conversion.files]


def run(conversion: Conversion, *, force: bool = False, jobs: int = 0) -> list[Path]:
    """Write the planned files; all of them appear under their names at the end, or none does.

    Returns:
        What was there already and stays: the vision encoder, which all quantizations of a model share.

    Raises:
        Qwen35Error: as `write_files`.

    """
    text, *others = conversion.files
    kept = [] if force or text.path.exists() else [file for file in others if _is_there(conversion, file, jobs)]
    write_files(conversion.checkpoint, [file for file in conversion.files if file not in kept], force=force, jobs=jobs)
    return [file.path for file in kept]


def _is_there(conversion: Conversion, file: PlannedFile, jobs: int) -> bool:
    """Make a file beside the existing one of its name, and compare; the name alone does not identify the weights."""
    if not file.path.is_file():
        return False
    with ExitStack() as stack:
        stream = stack.enter_context(GGUFStream(file.path, file.infos, force=True))
        with progress.progress(file.nbytes, file.path.name) as advance:
            _write(conversion.checkpoint, [(file, stream)], _start_threads(stack, jobs), None, advance)
        stream.finish()
        if filecmp.cmp(stream.part, file.path, shallow=False):
            return True
    raise OutputError(
        f"{file.path}: exists already with other bytes; use --force to replace it, or -o for another directory"
    )


def write_files(
    checkpoint: Checkpoint, files: Sequence[PlannedFile], *, force: bool = False, jobs: int = 0, digest_key: str = ""
) -> str:
    """Write files of one checkpoint in a single pass: each tensor is read once, and quantized once per type.

    Args:
        checkpoint: the source.
        files: what to write; all of them appear under their names at the end, or none does.
        force: replace existing files.
        jobs: threads; 0 for one per core.
        digest_key: a metadata entry of the files for the checksum of the weights, computed during the pass.

    Returns:
        The checksum of the weights, or "" if there is no `digest_key`.

    Raises:
        OutputError: a file exists already, cannot be written, or there is no space.
        QuantizationError: weights cannot be quantized.

    """
    for file in files:
        if file.path.exists() and not force:
            raise OutputError(f"{file.path}: exists already; use --force to replace it, or -o for another directory")
    for directory in dict.fromkeys(file.path.parent for file in files):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{directory}: cannot be made ({error.strerror}); choose another with -o") from None
        check_space(directory, sum(file.nbytes for file in files if file.path.parent == directory))

    digest = WeightsDigest(checkpoint) if digest_key else None
    with ExitStack() as stack:
        threads = _start_threads(stack, jobs)
        streams = [stack.enter_context(GGUFStream(file.path, file.infos, force=force)) for file in files]
        name = files[0].path.name if len(files) == 1 else f"{len(files)} files"
        with progress.progress(sum(file.nbytes for file in files), name) as advance:
            _write(checkpoint, list(zip(files, streams, strict=True)), threads, digest, advance)
        found = digest.hexdigest() if digest else ""
        for stream in streams:
            if found:
                stream.amend(digest_key, found)
            stream.finish()
        for stream in streams:
            stream.publish()
    return found


def peak_memory(conversion: Conversion, jobs: int = 0) -> int:
    """Estimate the peak of resident memory in bytes: the interpreter, the slabs in flight, one permuted tensor."""
    threads = jobs if jobs > 0 else os.cpu_count() or 1
    slabs = threads * SLABS_PER_THREAD * SLAB_ELEMENTS * 8
    checkpoint = conversion.checkpoint
    changed = checkpoint.changes.keys()
    planned = (tensor for file in conversion.files for tensor in file.tensors)
    permuted = [t.sources for t in planned if t.operations or not changed.isdisjoint(t.sources)]
    largest = max((checkpoint.read_bytes(source) for sources in permuted for source in sources), default=0)
    return 250_000_000 + slabs + 3 * largest


@dataclass(frozen=True)
class Threads:
    """The threads of the stages after the transforms: slabs are quantized, then written."""

    quantizers: ThreadPoolExecutor
    writer: ThreadPoolExecutor
    window: int  # slabs between the transforms and the disk


class Slab(NamedTuple):
    """Rows of an output tensor from `start` on, of its matrix number `matrix`, before they are quantized."""

    tensor: str
    rows: Array
    matrix: int
    start: int


class Target(NamedTuple):
    """One of the files that hold a tensor, its type there, its importance (1 or experts, columns), its rounding."""

    stream: GGUFStream
    type: GGMLQuantizationType
    importance: Array | None
    rounding: Rounding | None


def _start_threads(stack: ExitStack, jobs: int) -> Threads:
    count = jobs if jobs > 0 else os.cpu_count() or 1
    quantizers, writer = (
        stack.enter_context(ThreadPoolExecutor(size, thread_name_prefix=name))
        for name, size in (("quantize", count), ("write", 1))
    )
    return Threads(quantizers, writer, count * SLABS_PER_THREAD)


def _write(
    checkpoint: Checkpoint,
    files: Sequence[tuple[PlannedFile, GGUFStream]],
    threads: Threads,
    digest: WeightsDigest | None,
    advance: Callable[[int], None],
) -> None:
    targets: dict[str, list[Target]] = {}
    for file, stream in files:
        stream.write_header(file.metadata)
        for tensor, type_ in zip(file.tensors, file.types, strict=True):
            goal = Target(stream, type_, file.importance.get(tensor.name), file.rounding)
            targets.setdefault(tensor.name, []).append(goal)
    pending: deque[tuple[Future[Any], Future[None]]] = deque()
    hashed: dict[str, Future[None]] = {}

    def write(stream: GGUFStream, slab: Slab, rows: Future[Array], last: bool) -> None:
        data = rows.result()
        stream.write(data)
        if last:
            checkpoint.release(slab.rows)
        advance(data.nbytes)

    try:
        for tensor in in_order([file for file, _ in files]):
            for source in tensor.sources:
                if digest is not None and source not in hashed:
                    hashed[source] = threads.quantizers.submit(digest.add, source)
            goals = targets[tensor.name]
            for slab in _slabs(checkpoint, tensor):
                quantized: dict[tuple[GGMLQuantizationType, int], Future[Array]] = {}
                for number, (stream, type_, importance, rounding) in enumerate(goals, 1):
                    key = type_, id(importance)  # files of one release share most of their types
                    if key not in quantized:
                        inputs = _inputs(rounding, slab, type_)
                        shift = (
                            rounding.shift(slab.tensor, slab.start, slab.rows.shape) if rounding and inputs else None
                        )
                        quantized[key] = threads.quantizers.submit(_quantize, slab, type_, importance, inputs, shift)
                    written = threads.writer.submit(write, stream, slab, quantized[key], number == len(goals))
                    pending.append((quantized[key], written))
                    if len(pending) >= threads.window:
                        pending.popleft()[1].result()
        while pending:
            pending.popleft()[1].result()
        for one in hashed.values():
            one.result()
    finally:
        for one in hashed.values():
            one.cancel()
        for rows, written in pending:
            rows.cancel()
            written.cancel()
        wait([written for _, written in pending])  # the file is closed next


def in_order(files: Sequence[PlannedFile]) -> list[OutputTensor]:
    """List the tensors of all files, each once, in an order that is that of every file.

    The files of a checkpoint have all or some tensors of a part (text or vision), in the order of the tensor map.
    """
    listed: dict[str, OutputTensor] = {}
    for file in sorted(files, key=lambda file: -len(file.tensors)):  # the longest of a part first
        known = [tensor.name in listed for tensor in file.tensors]
        if all(known):
            continue
        if any(known):
            raise OutputError(f"{file.path}: has tensors in part those of another file; please report this")
        listed |= {tensor.name: tensor for tensor in file.tensors}
    return list(listed.values())


def _slabs(checkpoint: Checkpoint, tensor: OutputTensor) -> Iterator[Slab]:
    for number, matrix in tensor.matrices(checkpoint):
        rows = matrix.reshape(1, -1) if matrix.ndim == 1 else matrix
        step = max(1, SLAB_ELEMENTS // rows.shape[1])
        for start in range(0, rows.shape[0], step):
            yield Slab(tensor.name, rows[start : start + step], number, start)
    # Operations and dequantizing made copies, whose slabs cannot be traced back to the mapped pages.
    for source in tensor.sources:
        checkpoint.release_source(source)


def _inputs(rounding: Rounding | None, slab: Slab, type_: GGMLQuantizationType) -> list[InputMoments] | None:
    return None if rounding is None else rounding.inputs(slab.tensor, slab.matrix, slab.rows.shape[1], type_)


def _quantize(
    slab: Slab,
    type_: GGMLQuantizationType,
    importance: Array | None,
    inputs: list[InputMoments] | None,
    shift: Array | None = None,
) -> Array:
    """Quantize rows; importance is (1 or experts, columns), and counts for types of blocks only."""
    known = None if importance is None or GGML_QUANT_SIZES[type_][0] == 1 else importance
    try:
        row = None if known is None else known[slab.matrix if len(known) > 1 else 0]
        if inputs:
            rows = slab.rows if shift is None else slab.rows.astype(np.float32) + shift
            return round_rows(rows, type_, inputs, row).data
        return kernels.quantize_rows(slab.rows, type_, row)
    except QuantizationError as error:
        raise QuantizationError(f"{slab.tensor}: {error}") from None


if __name__ == "__main__":
    from qwen35_gguf.cli import main

    main(["convert", *sys.argv[1:]])
