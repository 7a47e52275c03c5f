"""Importance matrices, skewed as real ones are."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from qwen35_gguf.quant.imatrix import Imatrix


def made(seed: int = 0, tensors: dict[str, tuple[int, int]] | None = None) -> Imatrix:
    """Make one with entries for tensors of a name, a number of matrices and of columns."""
    r = np.random.default_rng(seed)
    found = Imatrix(datasets=["wiki.txt"], chunks=7, chunk_size=512)
    for name, (matrices, columns) in (tensors or {"blk.0.ffn_up.weight": (1, 32), "blk.0.e.weight": (3, 8)}).items():
        found.add(name, np.float32(r.gamma(1.0, 5.0, (matrices, columns))), np.full(matrices, 3584.0))
    return found


def of_model(file: Path, seed: int = 0) -> Imatrix:
    """Make one with entries for every matrix of a GGUF."""
    shapes = {}
    for tensor in gguf.GGUFReader(file).tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        if tensor.name.endswith(".weight") and len(shape) > 1:
            shapes[tensor.name] = (shape[0] if len(shape) == 3 else 1, shape[-1])
    return made(seed, shapes)
