"""Rounding by moments for NEON, cross-compiled and run by qemu: the bits are those of this processor."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from inputs.arm_emulator import NEEDED, compile_with_kernels, emulate
from qwen35_gguf.ggml_ops import _native, target
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding.fields import LAYOUTS, unpack
from qwen35_gguf.quant.rounding.round_rows import Effort, prepare

FLOOR = 1e-6

pytestmark = NEEDED


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("run_moment_rounding.cpp")
    return compile_with_kernels("moment_rounding", source, tmp_path_factory.mktemp("neon"))


def lower(factor: np.ndarray) -> np.ndarray:
    """What bindings make of the factor of `update` and `eliminate`, below the diagonal."""
    return np.tril(factor / np.diag(factor)[:, None], -1)


@pytest.mark.parametrize("name", ["neon", "portable"])
@pytest.mark.parametrize("type_", [Type.Q2_K, Type.Q8_0])
@pytest.mark.parametrize(("rows", "columns"), [(3, 256), (45, 768)])
def test_the_bits_are_those_of_this_processor(program: Path, name: str, type_: Type, rows: int, columns: int) -> None:
    random = np.random.default_rng(columns)
    x = (random.standard_t(5, (rows, columns)) * 0.02).astype(np.float32)
    inputs = random.normal(size=(2 * columns, columns)) @ (np.eye(columns) + random.normal(size=(columns, columns)) / 9)
    one = prepare((inputs.T @ inputs / len(inputs)).astype(np.float32))
    layout, block = LAYOUTS[type_], GGML_QUANT_SIZES[type_][0]
    fields = unpack(kernels.quantize_rows(x, type_, np.diagonal(one.matrix).copy()), type_)
    ranges = (*map(float, (*layout.quants, *layout.scales)), float(layout.most_min))
    zeros = np.zeros(1, np.float32)  # where a type has no mins
    start = [fields.values, fields.d, fields.dmin, fields.scales, fields.mins]
    start[2] = np.broadcast_to(zeros, fields.d.shape) if start[2] is None else start[2]
    start[4] = np.broadcast_to(zeros, fields.scales.shape) if start[4] is None else start[4]
    arrays = [np.array(part.reshape(rows, -1), np.float32, order="C") for part in start]
    header = struct.pack("16s2q2i6f", name.encode(), rows, columns, block, layout.group, *ranges, FLOOR)
    to_factor = one.matrix + np.eye(columns, dtype=np.float32)
    sent = [x, *arrays, one.matrix, one.factor, to_factor]
    found = np.frombuffer(emulate(program, header + b"".join(a.tobytes() for a in sent)), np.float32)

    before, after = np.empty(rows, np.float32), np.empty(rows, np.float32)
    dmin, mins = (arrays[2], arrays[4]) if layout.most_min > 0 else (None, None)
    _native.round_rows(
        x, arrays[0], arrays[1], dmin, arrays[3], mins, one.matrix, one.factor, (block, layout.group, *ranges), None,
        tuple(Effort()), before, after, 1, target(),
    )  # fmt: skip
    expected = np.concatenate([a.ravel() for a in (*arrays, before, after)])
    assert (after < before).all()
    assert (found[: expected.size] == expected).all()
    made = found[expected.size :].reshape(columns, columns)
    _native.factorize(to_factor, FLOOR, 1, target())
    assert (lower(made) == np.tril(to_factor, -1)).all()
