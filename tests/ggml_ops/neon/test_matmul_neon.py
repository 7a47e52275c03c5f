"""Matmul of quantized weights on NEON, cross-compiled and run by qemu, against float64."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from inputs.arm_emulator import NEEDED, compile_for_arm, emulate
from oracles.paths import ROOT
from qwen35_gguf import quant
from qwen35_gguf.ggml_ops import reference

Array = np.ndarray[Any, Any]

KERNELS = ROOT / "ggml_ops" / "quantized_matmul"
FLAGS = ["-O2", "-ffp-contract=off", "-DMATMUL_REFERENCE", f"-I{KERNELS}"]
TARGETS = {"neondot": ["-march=armv8.2-a+dotprod"], "i8mm": ["-march=armv8.2-a+dotprod+i8mm"], "portable": []}
OTHER_SOURCES = ["dispatch.cpp", "../simd/cpu.cpp"]
FORMATS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"]
BLOCKS_OF_32 = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"]
SHAPES = [(1, 256), (37, 512), (18, 2304)]
COLUMNS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 33]
TOLERANCE = 2e-6  # of the sum without its signs: the same terms in another order

pytestmark = NEEDED


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neon")
    objects = [
        compile_for_arm(folder / f"{name}.o", [KERNELS / f"target_{name}.cpp"], [*FLAGS, *flags, "-c"])
        for name, flags in TARGETS.items()
    ]
    sources = [Path(__file__).with_name("run_matmul.cpp"), *(KERNELS / name for name in OTHER_SOURCES), *objects]
    return compile_for_arm(folder / "run_matmul", sources, [*FLAGS, "-static"])


def run(program: Path, cpu: str, cases: list[tuple[str, str, Array, Array]]) -> list[Array]:
    """Multiply the weights of each case (target, type, weights, x) with its x."""
    stream = b"".join(
        struct.pack("16sqqqq", target.encode(), GGMLQuantizationType[name], len(packed), *x.shape)
        + packed.tobytes()
        + x.tobytes()
        for target, name, packed, x in cases
    )
    values = np.frombuffer(emulate(program, stream, cpu), np.float32)
    ends = np.cumsum([len(packed) * len(x) for _, _, packed, x in cases])
    assert len(values) == ends[-1]
    parts = np.split(values, ends[:-1])
    return [part.reshape(len(x), -1) for part, (_, _, _, x) in zip(parts, cases, strict=True)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FORMATS + BLOCKS_OF_32)
def test_any_number_of_columns_and_rows(program: Path, name: str, target: str) -> None:
    random = np.random.default_rng(0)
    cases = []
    for rows, k in [*SHAPES, *([(9, 1056)] if name in BLOCKS_OF_32 else [])]:
        packed = quant.quantize(random.standard_normal((rows, k)).astype(np.float32), name)
        x = random.standard_normal((max(COLUMNS), k)).astype(np.float32)
        x[0, :256] = 0
        x[1] = np.sign(x[1])  # all at 127 or -127
        cases += [(target, name, packed, np.ascontiguousarray(x[:columns])) for columns in COLUMNS]
    for found, (_, _, packed, x) in zip(run(program, "max", cases), cases, strict=True):
        activations = reference.dequantize_activations(*reference.quantize_activations(x, name))
        weights = dequantize(packed, GGMLQuantizationType[name]).astype(np.float64).T
        assert np.isfinite(found).all()
        assert (
            np.abs(found - reference.mul_mat(packed, name, x)) <= TOLERANCE * (np.abs(activations) @ np.abs(weights))
        ).all()


def test_a_processor_without_dot_products_has_the_portable_target_only(program: Path) -> None:
    packed = quant.quantize(np.ones((1, 256), np.float32), "Q8_0")
    x = np.ones((1, 256), np.float32)
    (found,) = run(program, "cortex-a53", [("portable", "Q8_0", packed, x)])
    assert found.shape == (1, 1)
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(program, "cortex-a53", [("neondot", "Q8_0", packed, x)])
    assert b"target neondot is not one that this processor runs" in error.value.stderr
