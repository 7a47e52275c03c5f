"""The portable matmul of quantized weights, the reference of targets other than x86, against gguf's dequantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from qwen35_gguf.ggml_ops import _native, reference
from qwen35_gguf.ggml_ops.reference import grids

Array = np.ndarray[Any, Any]

# Where the FP16 factors of a block are.
FACTORS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,)}
FACTORS |= {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,)}
FACTORS |= dict.fromkeys(grids.TYPES, (0,))
TOLERANCE = 2e-6  # of the sum without its signs: the same terms in another order

pytestmark = pytest.mark.unit


def random_blocks(name: str, rows: int, k: int) -> Array:
    """Any bytes are a block, if its factors are finite."""
    random = np.random.default_rng(0)
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    blocks = random.integers(0, 256, (rows, k // values, size), dtype=np.uint8)
    for at in FACTORS[name]:
        factor = random.uniform(-1, 1, (rows, k // values, 1)).astype(np.float16)
        blocks[:, :, at : at + 2] = factor.view(np.uint8)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("columns", [1, 5, 6, 7, 19])
def test_any_bytes_and_any_number_of_columns(name: str, columns: int) -> None:
    packed = random_blocks(name, 13, 2304)
    x = np.random.default_rng(1).standard_normal((columns, 2304)).astype(np.float32)
    found = np.full((columns, 13), np.nan, np.float32)
    _native.mul_mat(packed, name, x, found, "portable")
    activations = reference.dequantize_activations(*reference.quantize_activations(x, name))
    weights = dequantize(packed, GGMLQuantizationType[name]).astype(np.float64).T
    assert (
        np.abs(found - reference.mul_mat(packed, name, x)) <= TOLERANCE * (np.abs(activations) @ np.abs(weights))
    ).all()


def test_no_program_of_a_user_multiplies_by_it() -> None:
    assert "portable" not in _native.mul_mat_targets()
