"""Moments of a model that is quantized up to each input, and what its weights make up for.

Layer after layer, in the order of the graph (sequential/layer.py): the inputs of its next matmuls are evaluated with
everything before them quantized, beside those of the model as it is; the weights are shifted
(quant/rounding/input_sums.py), rounded by these moments and overwritten, and so on. Tokens count as in
collect_moments. Only one layer is in memory. Each layer that is complete is in a file of its own, with the streams
after it, which an interrupted run resumes from.

What the main layers do not have (MTP head, experts, tied output matrix) has moments of the model as it is.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import discard, disk_errors
from qwen35_gguf.errors import MomentsError
from qwen35_gguf.evaluation import collect_moments, residual_streams
from qwen35_gguf.evaluation.collect_imatrix import count_chunks
from qwen35_gguf.evaluation.collect_moments import OUTPUT_NORM, How, Text
from qwen35_gguf.evaluation.quantized_weights import Type, Weight, quantized
from qwen35_gguf.evaluation.residual_streams import Streams
from qwen35_gguf.evaluation.sensitivity import originals_of
from qwen35_gguf.evaluation.sequential.layer import collect_layer
from qwen35_gguf.evaluation.sequential.run import Run, is_sequential
from qwen35_gguf.evaluation.sequential.token_products import read_norm
from qwen35_gguf.evaluation.sequential.weights import shifted
from qwen35_gguf.evaluation.sums.embedding_moments import EMBEDDING, OUTPUT
from qwen35_gguf.evaluation.texts.tokenized import Split
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.input_sums import InputSums
from qwen35_gguf.quant.rounding.moments import Entry, Kind, Moments, Provenance
from qwen35_gguf.quant.rounding.round_rows import TYPES
from qwen35_gguf.runtime.model_files import read_model
from qwen35_gguf.runtime.planning import memory

Array = npt.NDArray[Any]


def collect(
    model: Path,
    split: Split,
    out: Path,
    types: Mapping[str, Type],
    *,
    kind: Kind,
    dataset: str,
    chunk: int = 512,
    chunks: int | None = None,
    effects: bool = True,
    keep_plain: bool = False,
    memory_limit: int = 4 << 30,
    threads: int = 1,
    advance: Callable[[int, int], None] = lambda _done, _all: None,
) -> Moments:
    """Collect moments of a model quantized to `types`, or resume an interrupted run.

    Args:
        model: the GGUF, in F32, F16 or BF16.
        split: tokenizes the calibration text.
        out: the file to be written; until it is complete, OUT.plain, OUT.layer-N and OUT.streams-N have what is done.
        types: of its tensors in the quantized model.
        kind: blocks of 256 columns, or whole matrices.
        dataset: name of the text in the file.
        chunk: tokens of a chunk; chunks are evaluated independently.
        chunks: number of chunks at most; by default all.
        effects: tokens count by how much errors at them matter.
        keep_plain: leave OUT.plain and OUT.plain.effects, which do not depend on `types`, for another run.
        memory_limit: bytes of the sums that are collected in one pass over the text, where they are of no layer.
        threads: of the evaluation.
        advance: is called with the number of steps that are done, and the number of all: a layer, or a chunk before.

    Raises:
        ImatrixError: the text is too short.
        MomentsError: one input alone needs more memory.
        ModelError: the model is quantized, or cannot be loaded or evaluated.
        OutputError: a file cannot be written.

    """
    header = read_model(model)
    layers = memory.main_layers(header)
    originals = originals_of(model)
    plain = out.with_name(f"{out.name}.plain")
    how = How(
        kind,
        effects,
        wanted=lambda name: name == OUTPUT or not is_sequential(name, layers),
        keep_effects=True,
        memory_limit=memory_limit,
        threads=threads,
    )
    with collect_moments.load(model) as loaded:
        ids = split(loaded)
        text = Text(ids, chunk, count_chunks(ids, chunk, chunks, dataset), dataset)
        wanted = collect_moments.provenance_of(header, text, kind, effects=effects)
        before = _complete(plain, wanted, text) or collect_moments.collect_loaded(
            loaded, text, plain, how, lambda done, total: advance(done, total + layers)
        )
    known = collect_moments.kept_effects(plain, wanted, text)
    known_types = {name: types[name] for name in originals if name in types and _is_before(name, layers)}
    provenance = replace(wanted, types=files.listed_types(known_types))
    run = Run(header, originals, types, text, known, provenance, before, threads)
    parts = [out.with_name(f"{out.name}.layer-{number}") for number in range(layers + (OUTPUT in originals))]
    streams, begun = _begun(run, out, parts)
    for layer in range(begun, layers):
        streams = _collect_layer(run, layer, streams, parts[layer])
        residual_streams.save(out, layer + 1, streams)
        advance(1 + layer, layers)
    if OUTPUT in originals:
        _collect_output(run, streams, parts[-1])
    _join(out, provenance, [before, *(files.read(part) for part in parts)])
    unneeded = () if keep_plain else (plain, collect_moments.effects_file(plain))
    discard(*unneeded, *parts)
    residual_streams.remove(out)
    return files.read(out)


def _is_before(name: str, layers: int) -> bool:
    """Tell whether the type of a tensor matters to the moments: not those of the MTP head."""
    match = re.match(r"blk\.(\d+)\.", name)
    return match is None or int(match[1]) < layers


def _collect_layer(run: Run, layer: int, streams: Streams, part: Path) -> Streams:
    """Collect the moments of a layer's inputs, quantize it, and return the streams after it."""
    folder = part.with_name(f"{part.name}.work")
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
    try:
        found = collect_layer(run, layer, streams, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _write_part(part, run.provenance, found.entries, found.shifts, found.shrinkings)
    return found.streams


def _collect_output(run: Run, streams: Streams, part: Path) -> None:
    """Collect the moments of the output matrix, which reads the stream after the last norm."""
    norm = read_norm(run.header, OUTPUT_NORM)
    sums = InputSums(len(norm.scale))
    for half, own in run.halves():
        sums.add(norm(streams.exact[own]), norm(streams.found[own]), run.counts(own, output=True), None, half)
    shifts: dict[str, Array] = {}
    shrinkings: dict[str, float] = {}
    if run.types.get(OUTPUT) in TYPES:
        shifts, moved = shifted(run.originals, [OUTPUT], sums)
        shrinkings = {OUTPUT: sums.shrinking(moved, run.types, run.provenance.kind, run.threads)}
    _write_part(part, run.provenance, {OUTPUT: sums.entry(OUTPUT, run.provenance.kind)}, shifts, shrinkings)


def _embedded(run: Run) -> Streams:
    """Return the streams before the first layer: rows of the embedding, as it is and quantized."""
    embedding, ids = run.originals[EMBEDDING], np.array(run.text.ids[: run.tokens])
    used, places = np.unique(ids, return_inverse=True)
    rows = np.ascontiguousarray(embedding[used])
    type_ = run.types.get(EMBEDDING, Type.F32)
    restored = quantized(Weight(EMBEDDING, 0, rows[None], embedding.shape), type_, run.as_it_is(EMBEDDING))[0][0]
    return Streams(rows.astype(np.float32)[places], restored[places])


# ---- files that an interrupted run resumes from --------------------------------------------------------------------


def _complete(plain: Path, wanted: Provenance, text: Text) -> Moments | None:
    """Read the moments of the model as it is, if an interrupted run collected them."""
    try:
        collect_moments.kept_effects(plain, wanted, text)
        found = files.read(plain)
    except MomentsError:
        return None
    return found if found.provenance == wanted else None


def _begun(run: Run, out: Path, parts: Sequence[Path]) -> tuple[Streams, int]:
    """Return the streams before the first layer that is not complete, and its number."""
    done = 0
    while done < len(parts) and _is_of(parts[done], run.provenance):
        done += 1
    shape = run.tokens, run.originals[EMBEDDING].shape[-1]
    for layer in range(min(done, memory.main_layers(run.header)), 0, -1):
        if (found := residual_streams.load(out, layer, shape)) is not None:
            return found, layer
    residual_streams.remove(out)  # of another run
    return _embedded(run), 0


def _is_of(part: Path, provenance: Provenance) -> bool:
    try:
        return files.read(part).provenance == provenance
    except MomentsError:
        return False


def _write_part(
    part: Path,
    provenance: Provenance,
    entries: Mapping[str, Entry],
    shifts: Mapping[str, Array],
    shrinkings: Mapping[str, float],
) -> None:
    widths = {name: (entry.sums.shape, entry.squares.shape[1]) for name, entry in entries.items()}
    files.write(part, provenance, widths, entries.values(), shifts, shrinkings)


def _join(out: Path, provenance: Provenance, parts: Sequence[Moments]) -> None:
    """Write the entries and shifts of all files into one."""
    found = {name: part for part in parts for name in part.names}  # the last counts
    widths = {name: files.widths_of(part)[name] for name, part in found.items()}
    shifts = {name: shift for part in parts for name in part.shifted if (shift := part.shift(name)) is not None}
    shrinkings = {name: value for name, part in found.items() if (value := part.shrinking(name)) is not None}
    files.write(out, provenance, widths, (part.entry(name) for name, part in found.items()), shifts, shrinkings)
