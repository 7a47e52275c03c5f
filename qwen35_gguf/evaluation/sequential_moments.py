"""Moments of a model that is quantized up to each input, and what its weights make up for.

Layer after layer, in the order of the graph: the inputs of its next matmuls are evaluated with everything before them
quantized, beside those of the model as it is; the weights are shifted (quant/rounding/input_sums.py), rounded by
these moments and overwritten, and so on. Tokens count as in collect_moments. Only one layer is in memory. Each layer
that is complete is in a file of its own, with the streams after it, which an interrupted run resumes from.

What the main layers do not have (MTP head, experts, tied output matrix) has moments of the model as it is.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import discard, disk_errors
from qwen35_gguf.convert.rounding import Rounding
from qwen35_gguf.errors import MomentsError
from qwen35_gguf.evaluation import collect_moments, residual_streams
from qwen35_gguf.evaluation.collect_imatrix import count_chunks
from qwen35_gguf.evaluation.collect_moments import OUTPUT_NORM, How, Text
from qwen35_gguf.evaluation.file_array import new_array
from qwen35_gguf.evaluation.layer_inputs import LayerInputs
from qwen35_gguf.evaluation.layer_slice import layer_tensors, write_slice
from qwen35_gguf.evaluation.quantized_weights import Quantizing, Type, Weight, quantized
from qwen35_gguf.evaluation.residual_streams import Streams
from qwen35_gguf.evaluation.sensitivity import originals_of
from qwen35_gguf.evaluation.sums.embedding_moments import EMBEDDING, OUTPUT
from qwen35_gguf.evaluation.sums.moment_sums import WRITERS, stream_weights
from qwen35_gguf.evaluation.texts.tokenized import Split
from qwen35_gguf.evaluation.token_effects import TokenEffects
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import map_data, tensor_data
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.input_sums import HALVES, InputSums
from qwen35_gguf.quant.rounding.moments import Entry, Kind, Moments, Provenance
from qwen35_gguf.quant.rounding.round_rows import TYPES, round_rows
from qwen35_gguf.runtime.model_files import read_model, require_tensor
from qwen35_gguf.runtime.planning import memory

Float = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

# Inputs of a layer, in the order of the graph; those of one stage do not depend on each other.
STAGES = (
    ("attn_qkv", "attn_q"),
    ("ssm_out", "attn_output"),
    ("ffn_gate", "ffn_gate_shexp"),
    ("ffn_down", "ffn_down_shexp"),
)
GATED = frozenset(("ffn_down_shexp",))  # a gate decides how much of their result is added to the stream


@dataclass(frozen=True)
class _Run:
    """What all layers share."""

    header: GgufHeader
    originals: Mapping[str, Array]
    types: Mapping[str, Type]
    text: Text
    effects: TokenEffects | None
    provenance: Provenance
    before: Moments  # of the model as it is
    threads: int

    @property
    def tokens(self) -> int:
        return self.text.chunk * self.text.chunks

    def chunks(self) -> Iterator[slice]:
        """Yield the tokens of each chunk."""
        for start in range(0, self.tokens, self.text.chunk):
            yield slice(start, start + self.text.chunk)

    def half(self, own: slice) -> int:
        """Tell which half of the text a chunk belongs to: every second one."""
        return int(own.start) // self.text.chunk % HALVES

    def counts(self, own: slice, *, output: bool = False) -> Float:
        """Return what tokens count, (tokens,)."""
        if self.effects is None:
            return np.ones(own.stop - own.start, np.float32)
        return (self.effects.output if output else self.effects.stream)[own].astype(np.float32)

    def as_it_is(self, name: str) -> Quantizing:
        """Return how weights are quantized that have moments of the model as it is, if any."""
        kind = self.provenance.kind
        rounding = Rounding(kind, kind, self.before) if self.before.has(name) else None
        return Quantizing(rounding=rounding, threads=self.threads)


def is_sequential(name: str, layers: int) -> bool:
    """Tell whether an input has moments of the quantized model: those of main layers, and an output matrix's own."""
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None:
        return name == OUTPUT
    return int(match[1]) < layers and any(match[2] in stage for stage in STAGES)


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
    run = _Run(header, originals, types, text, known, provenance, before, threads)
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


def _collect_layer(run: _Run, layer: int, streams: Streams, part: Path) -> Streams:
    """Collect the moments of a layer's inputs, quantize it, and return the streams after it."""
    own = [name for name in layer_tensors(run.header, layer) if name in run.originals]
    inputs = [name for name in own if files.input_of(name) == name and is_sequential(name, layer + 1)]
    folder = part.with_name(f"{part.name}.work")
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
    entries: dict[str, Entry] = {}
    shifts: dict[str, Array] = {}
    shrinkings: dict[str, float] = {}
    try:
        write_slice(run.header, layer, folder / "layer.gguf")
        with LayerInputs(folder / "layer.gguf", own, run.text.chunk, run.threads) as loaded:
            exact = _exact_inputs(run, loaded, inputs, streams.exact, folder)
            for name in (one for one in own if not is_sequential(files.input_of(one), layer + 1)):
                _put(run, loaded, name)
            for stage in STAGES:
                for name in (one for one in inputs if one.split(".")[2] in stage):
                    sums = _sum_inputs(run, loaded, name, exact, streams)
                    entries[name] = sums.entry(name, run.provenance.kind)
                    readers = [one for one in own if files.input_of(one) == name]
                    shifted, shrinking = _overwrite(run, loaded, readers, sums)
                    shifts |= shifted
                    if shrinking is not None:
                        shrinkings[name] = shrinking
            after = np.empty_like(streams.found)
            for chunk in run.chunks():
                after[chunk] = loaded.evaluate(streams.found[chunk], streams=2)[1][1]
            result = Streams(np.array(exact.after), after)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _write_part(part, run.provenance, entries, shifts, shrinkings)
    return result


class _Exact(NamedTuple):
    """What a layer of the model as it is computes: its inputs by name, and the streams within and after it."""

    inputs: dict[str, Float]
    middle: Float
    after: Float


def _exact_inputs(run: _Run, loaded: LayerInputs, inputs: Sequence[str], stream: Float, folder: Path) -> _Exact:
    """Evaluate the layer as it is; its inputs, which are larger than memory may be, are in files."""

    def kept(name: str, columns: int) -> Float:
        return new_array(folder / name, (run.tokens, columns))

    exact = _Exact(
        {name: kept(name, run.originals[name].shape[-1]) for name in inputs},
        kept("middle", stream.shape[1]),
        kept("after", stream.shape[1]),
    )
    for chunk in run.chunks():
        found, streams = loaded.evaluate(stream[chunk], inputs, streams=2)
        for name, rows in found.items():
            exact.inputs[name][chunk] = rows
        exact.middle[chunk], exact.after[chunk] = streams
    return exact


def _sum_inputs(run: _Run, loaded: LayerInputs, name: str, exact: _Exact, streams: Streams) -> InputSums:
    """Sum an input over the text."""
    kind = name.split(".")[2]
    writes, last = kind in WRITERS, kind.startswith("ffn")
    adds = writes and kind not in GATED
    sums = InputSums(run.originals[name].shape[-1], run.originals[name].astype(np.float32) if adds else None)
    for chunk in run.chunks():
        found, middle = loaded.evaluate(streams.found[chunk], [name], streams=1 if adds and last else 0)
        weights, difference = run.counts(chunk), None
        if writes:
            result = (exact.after if last else exact.middle)[chunk]
            weights = weights * stream_weights(result)
        if adds:
            difference = exact.middle[chunk] - middle[0] if last else streams.exact[chunk] - streams.found[chunk]
        sums.add(exact.inputs[name][chunk], found[name], weights, difference, run.half(chunk))
    return sums


def _overwrite(
    run: _Run, loaded: LayerInputs, names: Sequence[str], sums: InputSums
) -> tuple[dict[str, Array], float | None]:
    """Quantize the weights that read an input where they are loaded; return what was added to them, and the shrinking.

    There is no shrinking if nothing is rounded by the moments of this input.
    """
    rounded = [name for name in names if run.types.get(name) in TYPES and name in loaded.addresses]
    for name in (one for one in names if one not in rounded):
        _put(run, loaded, name)
    if not rounded:
        return {}, None
    shifts, shifted = _shifted(run, rounded, sums)
    shrinking = sums.shrinking(shifted, run.types, run.provenance.kind, run.threads)
    inputs = sums.prepared(run.provenance.kind, shrinking, run.threads)
    for name, rows in shifted.items():
        original, type_ = run.originals[name], run.types[name]
        blocks = round_rows(rows, type_, inputs, sums.importance, threads=run.threads).data
        restored = kernels.dequantize(blocks, type_, original.shape[1])
        Weight(name, loaded.addresses[name], original[None], original.shape).put(restored)
    return shifts, shrinking


def _shifted(run: _Run, names: Sequence[str], sums: InputSums) -> tuple[dict[str, Array], dict[str, Float]]:
    """Return what is added to the weights that read an input, and the sums of both."""
    weights = {name: run.originals[name].astype(np.float32) for name in names}
    shifts = sums.shifts(weights)
    return shifts, {name: weights[name] + shift.astype(np.float32) for name, shift in shifts.items()}


def _put(run: _Run, loaded: LayerInputs, name: str) -> None:
    """Quantize weights as they are, where they are loaded."""
    original, type_ = run.originals[name], run.types.get(name)
    if type_ is None or name not in loaded.addresses:
        return
    weight = Weight(name, loaded.addresses[name], original.reshape(-1, *original.shape[-2:]), original.shape)
    weight.put(quantized(weight, type_, run.as_it_is(name))[0])


def _collect_output(run: _Run, streams: Streams, part: Path) -> None:
    """Collect the moments of the output matrix, which reads the stream after the last norm."""
    norm = require_tensor(run.header, OUTPUT_NORM)
    scale = tensor_data(run.header, norm, map_data(run.header)).view(np.float32).reshape(-1)
    epsilon = float(run.header.value(f"{run.header.architecture}.attention.layer_norm_rms_epsilon", 1e-6))

    def normed(rows: Float) -> Float:
        found: Float = rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + np.float32(epsilon)) * scale
        return found

    sums = InputSums(len(scale))
    for chunk in run.chunks():
        weights = run.counts(chunk, output=True)
        sums.add(normed(streams.exact[chunk]), normed(streams.found[chunk]), weights, None, run.half(chunk))
    shifts: dict[str, Array] = {}
    shrinkings: dict[str, float] = {}
    if run.types.get(OUTPUT) in TYPES:
        shifts, shifted = _shifted(run, [OUTPUT], sums)
        shrinkings = {OUTPUT: sums.shrinking(shifted, run.types, run.provenance.kind, run.threads)}
    _write_part(part, run.provenance, {OUTPUT: sums.entry(OUTPUT, run.provenance.kind)}, shifts, shrinkings)


def _embedded(run: _Run) -> Streams:
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


def _begun(run: _Run, out: Path, parts: Sequence[Path]) -> tuple[Streams, int]:
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
