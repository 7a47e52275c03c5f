"""The block quantizers by name: the readable twin of the kernels in ggml_ops/kquants and of ggml_quantize_chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qwen35_gguf.ggml_ops.reference import iq4, kquants, legacy_quants
from qwen35_gguf.ggml_ops.reference.rounding import Array


class Format(NamedTuple):
    """A format: weights of a block, its function, and whether an importance matrix is turned into weights per row."""

    block: int
    quantize: Callable[[Array, Array | None], Array]
    weighs_rows: bool = False


FORMATS = {
    "Q2_K": Format(256, kquants.quantize_q2_k),
    "Q3_K": Format(256, kquants.quantize_q3_k),
    "Q4_K": Format(256, kquants.quantize_q4_k),
    "Q5_K": Format(256, kquants.quantize_q5_k),
    "Q6_K": Format(256, kquants.quantize_q6_k),
    "IQ4_XS": Format(256, iq4.quantize_iq4_xs),
    "IQ4_NL": Format(32, iq4.quantize_iq4_nl),
    "Q8_0": Format(32, legacy_quants.quantize_q8_0),
    "Q4_0": Format(32, legacy_quants.quantize_q4_0, weighs_rows=True),
    "Q4_1": Format(32, legacy_quants.quantize_q4_1, weighs_rows=True),
    "Q5_0": Format(32, legacy_quants.quantize_q5_0, weighs_rows=True),
    "Q5_1": Format(32, legacy_quants.quantize_q5_1, weighs_rows=True),
}


def quantize(x: Array, type: str, importance: Array | None = None) -> Array:  # noqa: A002 (ggml's word)
    """Quantize rows, bit for bit as the kernels do.

    Args:
        x: (rows, columns) float32, finite; columns are whole blocks.
        type: a name in FORMATS, as ggml spells it.
        importance: (columns,) float32, not negative, or None.

    Returns:
        (rows, row bytes) uint8.

    """
    block, function, weighs_rows = FORMATS[type]
    weights = None
    with np.errstate(all="ignore"):
        if weighs_rows and importance is not None:
            weights = legacy_quants.search_weights(x, importance).reshape(-1, block)
        elif importance is not None:
            weights = np.tile(importance, (len(x), 1)).reshape(-1, block)
        return function(x.reshape(-1, block), weights).reshape(len(x), -1)
