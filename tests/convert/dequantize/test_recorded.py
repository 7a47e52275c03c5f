"""Weights are those that GPTQModel, AutoAWQ, ModelOpt and mlx make of the same tensors; `record.py` asked them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inputs import quantized, saved_tensors
from oracles.paths import ROOT

pytestmark = pytest.mark.unit

RECORDED = {path.stem: path for path in (ROOT / "tests/oracles/dequantized").glob("*.safetensors")}
CASES = {name.lower().replace(",", "").replace(" ", "-"): case for name, case in quantized.CASES.items()}
# mlx multiplies and adds with one rounding where the processor can.
ROUNDINGS = {"mlx": 2e-7}


@pytest.mark.parametrize("name", RECORDED)
def test_weights_equal_those_of_the_library(tmp_path: Path, name: str) -> None:
    tensors = saved_tensors.read(RECORDED[name])
    expected = tensors.pop("expected")
    (found,) = quantized.read_modules(quantized.write_module(tmp_path, CASES[name], tensors)).values()
    assert found.dtype == np.float32
    tolerance = ROUNDINGS.get(name.partition("-")[0], 0.0) * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
