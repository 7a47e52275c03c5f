"""The importance of each tensor of a conversion, and what to tell the user where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from qwen35_gguf.convert.tensor_plan import OutputTensor, TensorPlan
from qwen35_gguf.errors import ImatrixError
from qwen35_gguf.quant import imatrix as matrices

Array = np.ndarray[Any, np.dtype[Any]]


def importance_of(weights: matrices.Imatrix, tensors: Sequence[OutputTensor]) -> dict[str, Array]:
    """Find the importance of each tensor that has one.

    Raises:
        ImatrixError: the matrix is of another model.

    """
    found = {tensor.name: weights.importance(tensor.name, tensor.shape) for tensor in tensors if len(tensor.shape) > 1}
    known = {name: values for name, values in found.items() if values is not None}
    if not known:
        raise ImatrixError(f"{weights.path}: has no entry for any tensor of this model; give one that was made of it")
    return known


def importance_notes(
    weights: matrices.Imatrix, plan: TensorPlan, types: Sequence[GGMLQuantizationType], lacking: Sequence[str]
) -> tuple[str, ...]:
    """Tell which tensors lack importance that they need, and which experts saw no input."""
    notes = []
    if lacking:
        used = sorted({type_.name for tensor, type_ in zip(plan.text, types, strict=True) if tensor.name in lacking})
        head = f"blk.{plan.architecture.layers}."
        advice = (
            "make it with `qwen35 imatrix`, which has them for the MTP head, or leave the head out with --no-mtp"
            if lacking[0].startswith(head)
            else "make one of the whole model with `qwen35 imatrix`"
        )
        notes.append(
            f"the importance matrix has no entry for {len(lacking)} tensors that need one, first {lacking[0]}: "
            f"they are {', '.join(used)}, which needs none; {advice}"
        )
    if unseen := weights.unseen(tensor.name for tensor in plan.text):
        name, count = next(iter(unseen.items()))
        notes.append(
            f"{count} experts of {name} (and some of {len(unseen) - 1} other tensors) saw no input when the importance "
            "matrix was made: their columns count alike; a longer text reaches more of them"
        )
    return tuple(notes)
