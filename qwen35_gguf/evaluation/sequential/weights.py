"""Quantize the weights of a layer where they are loaded, so that what comes after them is evaluated with these."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.evaluation.layer_inputs import LayerInputs
from qwen35_gguf.evaluation.quantized_weights import Weight, quantized
from qwen35_gguf.evaluation.sequential.run import Run
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding.input_sums import InputSums
from qwen35_gguf.quant.rounding.round_rows import TYPES, round_rows

Float = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


def overwrite(
    run: Run, loaded: LayerInputs, names: Sequence[str], sums: InputSums
) -> tuple[dict[str, Array], float | None]:
    """Quantize the weights that read an input; return what was added to them, and the shrinking.

    There is no shrinking if nothing is rounded by the moments of this input.
    """
    rounded = [name for name in names if run.types.get(name) in TYPES and name in loaded.addresses]
    for name in (one for one in names if one not in rounded):
        put(run, loaded, name)
    if not rounded:
        return {}, None
    shifts, moved = shifted(run.originals, rounded, sums)
    shrinking = sums.shrinking(moved, run.types, run.provenance.kind, run.threads)
    inputs = sums.prepared(run.provenance.kind, shrinking, run.threads)
    for name, rows in moved.items():
        original, type_ = run.originals[name], run.types[name]
        blocks = round_rows(rows, type_, inputs, sums.importance, threads=run.threads).data
        restored = kernels.dequantize(blocks, type_, original.shape[1])
        Weight(name, loaded.addresses[name], original[None], original.shape).put(restored)
    return shifts, shrinking


def shifted(
    originals: Mapping[str, Array], names: Sequence[str], sums: InputSums
) -> tuple[dict[str, Array], dict[str, Float]]:
    """Return what is added to the weights that read an input, and the sums of both."""
    weights = {name: originals[name].astype(np.float32) for name in names}
    shifts = sums.shifts(weights)
    return shifts, {name: weights[name] + shift.astype(np.float32) for name, shift in shifts.items()}


def put(run: Run, loaded: LayerInputs, name: str) -> None:
    """Quantize weights as they are."""
    original, type_ = run.originals[name], run.types.get(name)
    if type_ is None or name not in loaded.addresses:
        return
    weight = Weight(name, loaded.addresses[name], original.reshape(-1, *original.shape[-2:]), original.shape)
    weight.put(quantized(weight, type_, run.as_it_is(name))[0])


def loaded_now(run: Run, loaded: LayerInputs, name: str) -> Float:
    """Return a matrix as llama.cpp computes with it."""
    original = run.originals[name]
    if name not in loaded.addresses:
        return original.astype(np.float32)
    held = ctypes.string_at(loaded.addresses[name], original.nbytes)
    return np.frombuffer(held, original.dtype).reshape(original.shape).astype(np.float32)
