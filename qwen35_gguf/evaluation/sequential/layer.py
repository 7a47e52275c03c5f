"""Collect the moments of one layer's inputs, quantize its weights by them, and evaluate the streams after it.

Nothing is evaluated twice: llama.cpp mixes the tokens (attention, or gated delta net), up to what its output matrix is
given. What is done to each token alone, norms, the feed-forward network, and what is added to the stream, is computed
from these rows. Only with routed experts the layer is evaluated once more, as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import discard
from qwen35_gguf.evaluation.file_array import new_array
from qwen35_gguf.evaluation.layer_inputs import STREAMS, LayerInputs
from qwen35_gguf.evaluation.layer_slice import layer_tensors, write_slice
from qwen35_gguf.evaluation.residual_streams import Streams
from qwen35_gguf.evaluation.sequential import weights
from qwen35_gguf.evaluation.sequential.run import STAGES, Run, is_sequential
from qwen35_gguf.evaluation.sequential.token_products import Norm, gated, read_norm
from qwen35_gguf.evaluation.sums.moment_sums import stream_weights
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.input_sums import InputSums
from qwen35_gguf.quant.rounding.moments import Entry

Float = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Rows = Callable[[Any], Float]  # of some tokens

NORMS = "attn_norm", "post_attention_norm"  # before the tokens are mixed, and before the feed-forward network
ROUTED = "_exps"  # ends the kinds of weights of routed experts


class Collected(NamedTuple):
    """Of a layer: the moments of its inputs, what was added to its weights, shrinkings, and the streams after it."""

    entries: dict[str, Entry]
    shifts: dict[str, Array]
    shrinkings: dict[str, float]
    streams: Streams


def collect_layer(run: Run, layer: int, before: Streams, folder: Path) -> Collected:
    """Collect the moments of a layer's inputs, and quantize it.

    Args:
        run: what all layers share.
        layer: its number.
        before: the streams before it.
        folder: is there, for files as large as the inputs of the whole text, which may be larger than memory.

    Raises:
        ModelError: llama.cpp fails.
        OutputError: a file cannot be written.

    """
    write_slice(run.header, layer, folder / "layer.gguf")
    own = [name for name in layer_tensors(run.header, layer) if name in run.originals]
    with LayerInputs(folder / "layer.gguf", own, run.text.chunk, run.threads) as loaded:
        return _Layer(run, own, before, folder, loaded).collect(layer)


class _Layer:
    """A layer that is loaded, the streams before it, and what was collected so far."""

    def __init__(self, run: Run, own: Sequence[str], before: Streams, folder: Path, loaded: LayerInputs) -> None:
        self._run, self._own, self._before, self._folder, self._loaded = run, own, before, folder, loaded
        self._entries: dict[str, Entry] = {}
        self._shifts: dict[str, Array] = {}
        self._shrinkings: dict[str, float] = {}

    def collect(self, layer: int) -> Collected:
        """Do everything."""
        inputs = [name for name in self._own if files.input_of(name) == name and is_sequential(name, layer + 1)]
        others = [name for name in self._own if not is_sequential(files.input_of(name), layer + 1)]
        mixing, feeding = (read_norm(self._run.header, f"blk.{layer}.{norm}.weight") for norm in NORMS)
        of_stage = {name.split(".")[2]: name for name in inputs}
        reads, writes, gate, down = (
            next((of_stage[kind] for kind in stage if kind in of_stage), "") for stage in STAGES
        )
        routed = any(name.split(".")[2].endswith(ROUTED) for name in self._own)
        hidden = self._before.exact.shape[1]
        after = Streams(self._array("exact-after", hidden), self._array("found-after", hidden))
        middle = self._mix(mixing, reads, writes, others, after.exact if routed else None)
        if gate:
            self._feed(feeding, gate, down, middle, after, adds=not routed)
        if routed:
            self._evaluate(self._before.found, {}, after.found)
        return Collected(self._entries, self._shifts, self._shrinkings, Streams(*map(np.array, after)))

    def _mix(self, norm: Norm, reads: str, writes: str, others: Sequence[str], after: Float | None) -> Streams:
        """Quantize attention or gated delta net, and what has no moments of its own; return the streams after it.

        Args:
            norm: before it.
            reads: its first input.
            writes: the input of what writes into the stream.
            others: weights that have moments of the model as it is.
            after: is filled with the stream after the layer of the model as it is; None: it is not evaluated.

        """
        exact, found = self._before
        width = self._run.originals[writes].shape[-1]
        mixed = Streams(self._array("exact-mixed", width), self._array("found-mixed", width))
        self._evaluate(exact, {writes: mixed.exact}, after)
        for name in others:
            weights.put(self._run, self._loaded, name)
        self._quantize(reads, lambda own: norm(exact[own]), lambda own: norm(found[own]))
        self._evaluate(found, {writes: mixed.found})
        middle = Streams(self._array("exact-middle", exact.shape[1]), self._array("found-middle", exact.shape[1]))
        self._add(middle.exact, exact, mixed.exact, self._original(writes))
        self._quantize(writes, mixed.exact.__getitem__, mixed.found.__getitem__, middle.exact, self._before)
        self._add(middle.found, found, mixed.found, self._now(writes))
        discard(self._folder / "exact-mixed", self._folder / "found-mixed")
        return middle

    def _feed(self, norm: Norm, gate: str, down: str, middle: Streams, after: Streams, *, adds: bool) -> None:
        """Quantize a feed-forward network, or shared experts, of which a gate decides how much is added."""
        up = gate.replace(".ffn_gate", ".ffn_up")
        width = self._run.originals[down].shape[-1]
        inner = Streams(self._array("exact-inner", width), self._array("found-inner", width))
        self._evaluate_inner(inner.exact, norm, middle.exact, self._original(gate), self._original(up))
        self._quantize(gate, lambda own: norm(middle.exact[own]), lambda own: norm(middle.found[own]))
        self._evaluate_inner(inner.found, norm, middle.found, self._now(gate), self._now(up))
        if adds:
            self._add(after.exact, middle.exact, inner.exact, self._original(down))
        added_to = middle if adds else None
        self._quantize(down, inner.exact.__getitem__, inner.found.__getitem__, after.exact, added_to)
        if adds:
            self._add(after.found, middle.found, inner.found, self._now(down))

    def _quantize(
        self, name: str, exact: Rows, found: Rows, result: Float | None = None, added_to: Streams | None = None
    ) -> None:
        """Sum an input, keep its moments, and quantize the weights that read it.

        Args:
            name: of the input.
            exact: gives its rows of the model as it is.
            found: gives its rows after quantized layers.
            result: the stream in the model as it is, after what is computed from the input was added to it.
            added_to: the streams before, if nothing else is added.

        """
        run = self._run
        sums = InputSums(run.originals[name].shape[-1], None if added_to is None else self._original(name))
        for half, own in run.halves():
            counts = run.counts(own)
            if result is not None:
                counts = counts * stream_weights(result[own])
            less = None if added_to is None else added_to.exact[own] - added_to.found[own]
            sums.add(exact(own), found(own), counts, less, half)
        self._entries[name] = sums.entry(name, run.provenance.kind)
        readers = [one for one in self._own if files.input_of(one) == name]
        shifts, shrinking = weights.overwrite(run, self._loaded, readers, sums)
        self._shifts |= shifts
        if shrinking is not None:
            self._shrinkings[name] = shrinking

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def _evaluate(self, stream: Float, inputs: Mapping[str, Float], after: Float | None = None) -> None:
        """Let llama.cpp evaluate the layer, and fill arrays with inputs, and the stream after it."""
        for chunk in self._run.chunks():
            found, streams = self._loaded.evaluate(stream[chunk], list(inputs), 0 if after is None else STREAMS)
            for name, rows in found.items():
                inputs[name][chunk] = rows
            if after is not None:
                after[chunk] = streams[-1]

    def _evaluate_inner(self, inner: Float, norm: Norm, stream: Float, gate: Float, up: Float) -> None:
        for own in self._run.batches():
            inner[own] = gated(norm(stream[own]), gate, up)

    def _add(self, after: Float, stream: Float, rows: Float, matrix: Float) -> None:
        """Fill `after` with the stream, to which rows matrixT are added."""
        for own in self._run.batches():
            after[own] = stream[own] + rows[own] @ matrix.T

    def _original(self, name: str) -> Float:
        return self._run.originals[name].astype(np.float32)

    def _now(self, name: str) -> Float:
        return weights.loaded_now(self._run, self._loaded, name)

    def _array(self, name: str, columns: int) -> Float:
        return new_array(self._folder / name, (self._run.tokens, columns))
