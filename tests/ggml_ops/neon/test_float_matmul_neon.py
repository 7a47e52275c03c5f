"""The NEON kernels of the matmul of floating-point weights, cross-compiled and run by qemu."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs.arm_emulator import NEEDED, compile_with_kernels, emulate
from qwen35_gguf import quant
from qwen35_gguf.ggml_ops import reference

Array = np.ndarray[Any, Any]

FORMATS = ["F32", "F16", "BF16"]
TOLERANCE = 3e-6  # of the norms, multiplied

pytestmark = NEEDED


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("run_float_matmul.cpp")
    return compile_with_kernels("float_matmul", source, tmp_path_factory.mktemp("neon"))


@pytest.mark.parametrize("target", ["neon", "portable"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("columns", [1, 3, 6, 7, 25, 40])
@pytest.mark.parametrize(("rows", "k"), [(1, 1), (37, 131), (18, 1152)])
def test_any_number_of_columns_and_rows(program: Path, target: str, name: str, columns: int, rows: int, k: int) -> None:
    random = np.random.default_rng(k)
    weights = quant.quantize(random.standard_normal((rows, k)).astype(np.float32), name).view(np.uint8)
    x = random.standard_normal((columns, k)).astype(np.float32)
    header = struct.pack("16s4q", target.encode(), FORMATS.index(name), rows, columns, k)
    output = emulate(program, header + weights.tobytes() + x.tobytes())
    found = np.frombuffer(output, np.float32).reshape(columns, rows)
    wanted = reference.float_mul_mat(weights, name, x)
    norms = np.linalg.norm(x, axis=1)[:, None] * np.sqrt(k)
    assert np.isfinite(found).all()
    assert (np.abs(found - wanted) <= TOLERANCE * norms).all()
