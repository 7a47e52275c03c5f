"""The NEON quantizers, cross-compiled and run by qemu, against the bytes of ggml on this processor.

ggml on an ARM processor may itself give other bytes: compilers contract its a * b + c there to a fused multiply-add,
which our kernels never do.
"""

from __future__ import annotations

import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from inputs.arm_emulator import NEEDED, compile_with_kernels, emulate
from inputs.hard_weights import COLUMNS, IMPORTANCE, SHAPES, make
from oracles.ggml import ggml_accepts, ggml_quantize
from qwen35_gguf.ggml_ops import _native

pytestmark = NEEDED


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("quantize_rows.cpp")
    return compile_with_kernels("kquants", source, tmp_path_factory.mktemp("neon"))


def case(target: str, format_: str, x: np.ndarray, importance: np.ndarray | None, source: int) -> bytes:
    rows, columns = x.shape
    header = struct.pack("16s16siiqq", target.encode(), format_.encode(), source, importance is not None, rows, columns)
    return header + (b"" if importance is None else importance.tobytes()) + x.tobytes()


@pytest.mark.parametrize("target", ["neon", "portable"])
@pytest.mark.parametrize("format_", _native.quantize_formats())
def test_bytes_are_those_of_ggml(program: Path, format_: str, target: str) -> None:
    cases, expected, names = [], [], []
    for shape in SHAPES:
        for weights in IMPORTANCE:
            x, importance = make(shape, weights, 7, 0)
            packed = ggml_quantize(x, format_, importance)
            if ggml_accepts(packed, format_):  # else NaN, whose sign processors do not agree on; it is refused anyway
                cases.append(case(target, format_, x, importance, 0))
                expected.append(packed.tobytes())
                names.append((shape, weights))
    for source, dtype in ((1, ml_dtypes.bfloat16), (2, np.float16)):
        narrow = np.random.default_rng(0).standard_normal((7, COLUMNS)).astype(dtype)
        cases.append(case(target, format_, narrow, None, source))
        expected.append(ggml_quantize(narrow.astype(np.float32), format_, None).tobytes())
        names.append((dtype.__name__, "none"))
    found = emulate(program, b"".join(cases))
    start, wrong = 0, []
    for name, packed in zip(names, expected, strict=True):
        if found[start : start + len(packed)] != packed:
            wrong.append(name)
        start += len(packed)
    assert start == len(found)
    assert not wrong
