"""The NEON kernels of attention, cross-compiled and run by qemu, against float64."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from inputs.arm_emulator import NEEDED, compile_with_kernels, emulate
from qwen35_gguf.ggml_ops import reference

Array = np.ndarray[Any, Any]

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]  # in the order of attention::Type
TOLERANCE = 2e-5

pytestmark = NEEDED


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("run_attention.cpp")
    return compile_with_kernels("attention", source, tmp_path_factory.mktemp("neon"))


@pytest.mark.parametrize("target", ["neon", "portable"])
@pytest.mark.parametrize("types", [(name, name) for name in TYPES] + [("F16", "Q8_0"), ("Q4_0", "F32")])
@pytest.mark.parametrize("size", [64, 72])
@pytest.mark.parametrize(("tokens", "positions"), [(1, 70), (3, 65), (20, 150), (2, 600)])
def test_attention(program: Path, target: str, types: tuple[str, str], size: int, tokens: int, positions: int) -> None:
    if size % 32 and ("Q8_0" in types or "Q4_0" in types):
        pytest.skip("blocks of 32 do not divide the size")
    random = np.random.default_rng(tokens)
    heads, cache_heads = 6, 2
    q = random.standard_normal((tokens, heads, size)).astype(np.float32)
    caches, held = [], []
    for name in types:
        kind = GGMLQuantizationType[name]
        packed = quantize(random.standard_normal((positions * cache_heads, size)).astype(np.float32), kind)
        caches.append(packed.tobytes())
        held.append(dequantize(packed, kind).reshape(positions, cache_heads, size))
    position = np.arange(positions)[None, :] + tokens - positions
    hidden = (position > np.arange(tokens)[:, None]) | (random.random((tokens, positions)) < 0.2)
    mask = np.where(hidden, -np.inf, 0).astype(np.float16)
    kinds = [TYPES.index(name) for name in types]
    header = struct.pack("16s8q", target.encode(), *kinds, size, tokens, heads, cache_heads, positions, 2)
    inputs = header + b"".join(caches) + q.tobytes() + mask.tobytes()
    found = np.frombuffer(emulate(program, inputs), np.float32).reshape(q.shape)
    expected = reference.attention(q, held[0], held[1], mask, scale=0.125)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(held[1]).max()
