"""What mlx-lm itself exports, in BF16 and quantized, gives the tensors of the checkpoint that it was made of.

Needs mlx-lm (`pip install mlx-lm`, on Linux `pip install "mlx[cpu]" mlx-lm`), which is not among the test dependencies.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from qwen35_gguf.convert import hf_to_gguf, verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mlx_lm") is None, reason="needs mlx-lm"),
]

Factory = Callable[..., Path]


def export(source: Path, target: Path, **options: object) -> Path:
    """Run mlx-lm in a process of its own."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    code = f"from mlx_lm import convert; convert({str(source)!r}, mlx_path={str(target)!r}, {arguments})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def tensors(file: Path) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return {tensor.name: np.asarray(tensor.data) for tensor in GGUFReader(file).tensors}


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "experts"])
def test_an_export_is_the_checkpoint(checkpoint: Factory, tmp_path: Path, moe: bool) -> None:
    source = checkpoint(moe=moe, tied=False, vision=False)
    exported = export(source, tmp_path / "mlx", dtype="bfloat16")
    (wanted,) = hf_to_gguf.convert(source, "F32", tmp_path / "wanted", mtp=False)
    (found,) = hf_to_gguf.convert(exported, "F32", tmp_path / "found")
    assert all(result.passed for result in verify.verify(found, exported))
    ours, theirs = tensors(found), tensors(wanted)
    assert ours.keys() == theirs.keys()
    for name, data in theirs.items():
        # Gated norms and decays are F32 in the checkpoint; 1 + w is rounded to BF16 in the export.
        np.testing.assert_allclose(ours[name], data, atol=2**-7, rtol=2**-7, err_msg=name)


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "experts"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_export_is_dequantized_as_mlx_does(
    checkpoint: Factory, tmp_path: Path, moe: bool, bits: int
) -> None:
    source = checkpoint(moe=moe, tied=False, vision=False)
    quantized = export(source, tmp_path / "quantized", quantize=True, q_bits=bits, q_group_size=64, dtype="bfloat16")
    plain = export(quantized, tmp_path / "plain", dequantize=True, dtype="float32")
    (found,) = hf_to_gguf.convert(quantized, "F32", tmp_path / "found")
    (wanted,) = hf_to_gguf.convert(plain, "F32", tmp_path / "wanted")
    ours, theirs = tensors(found), tensors(wanted)
    assert ours.keys() == theirs.keys()
    for name, data in theirs.items():
        np.testing.assert_array_equal(ours[name], data, err_msg=name)
