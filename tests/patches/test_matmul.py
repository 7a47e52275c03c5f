"""Quantized weights multiplied by our kernels inside llama.cpp give the logits that ggml's own kernels give.

QWEN35_CPU=portable selects ggml's own kernels. The choice is made once per process, so each side has its own.

Both round activations to 8 bits. An activation at the boundary of two of its 255 values moves with the last bit of a
sum, and all that follows in that sequence moves with it. So the first tokens of most sequences agree to the last bits,
and what the others cost is compared with the cost of the rounding itself: of ggml's kernels, against the same weights
in F32, with which activations are not rounded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from inputs import importance_matrices
from oracles import llama
from oracles.paths import ROOT
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.quant import imatrix
from qwen35_gguf.runtime.llama.install import installed_runtime

Array = np.ndarray[Any, Any]

TYPES = ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "IQ4_XS"]
MORE_TYPES = [
    *("Q2_K", "Q3_K_M", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"),
    *("IQ3_S", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
]
OTHER_TARGETS = ["avx512vnni", "avxvnni", "avx2"]
CASES = [
    *(pytest.param(name, "") for name in TYPES),
    *(pytest.param(name, "", marks=pytest.mark.slow) for name in MORE_TYPES),
    *(pytest.param(name, cpu, marks=pytest.mark.slow) for name in TYPES + MORE_TYPES for cpu in OTHER_TARGETS),
]
MODELS = {"dense": {}, "experts": {"moe": True}}
TESTS = ROOT / "tests"
runtime = installed_runtime()

pytestmark = pytest.mark.skipif(not (runtime and runtime.patches), reason="a stock llama.cpp has no other kernels")


@pytest.fixture(scope="module")
def sides(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], tuple[Array, Array, Path]]:
    """Make a file of a model and a type, once; return ggml's logits with it, those without rounding, and the file."""
    made: dict[tuple[str, str], tuple[Array, Array, Path]] = {}

    def make(model: str, quant: str) -> tuple[Array, Array, Path]:
        if (model, quant) not in made:
            folder, source = tmp_path_factory.mktemp("matmul"), checkpoint(seed=1, **MODELS[model])
            (exact,) = hf_to_gguf.convert(source, "F32", folder / "f32", vision=False)
            imatrix.write(importance_matrices.of_model(exact), folder / "i.gguf")
            (file,) = hf_to_gguf.convert(source, quant, folder / quant, vision=False, imatrix=folder / "i.gguf")
            replace_weights(exact, file)
            ggml, unrounded = logits([file, exact], folder / "ggml.npz", "portable", 2)
            made[model, quant] = ggml, unrounded, file
        return made[model, quant]

    return make


def replace_weights(exact: Path, quantized: Path) -> None:
    """Write the weights of a quantized file into the same model in F32."""
    packed = {tensor.name: tensor for tensor in gguf.GGUFReader(quantized).tensors}
    for tensor in gguf.GGUFReader(exact, "r+").tensors:
        tensor.data[:] = gguf.quants.dequantize(packed[tensor.name].data, packed[tensor.name].tensor_type)


def logits(files: list[Path], out: Path, cpu: str, threads: int) -> list[Array]:
    environment = os.environ | {"QWEN35_CPU": cpu, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, TESTS / "patches" / "matmul_scenarios.py", out, str(threads), *files]
    subprocess.run(command, check=True, env=environment)
    arrays = np.load(out)
    return [arrays[file.stem] for file in files]


@pytest.mark.parametrize(("quant", "cpu"), CASES)
@pytest.mark.parametrize("model", MODELS)
def test_logits_are_those_of_ggml(sides: Any, tmp_path: Path, model: str, quant: str, cpu: str) -> None:
    ggml, unrounded, file = sides(model, quant)
    of_rounding = llama.mean_kl(unrounded, ggml)
    for threads in (1, 2, 3) if cpu == "" else (2,):
        (ours,) = logits([file], tmp_path / "ours.npz", cpu, threads)
        for split in range(len(ggml)):
            first = [llama.mean_kl(a[:1], b[:1]) for a, b in zip(ggml[split], ours[split], strict=True)]
            assert np.median(first) < 1e-9
        assert llama.mean_kl(ggml, ours) < of_rounding / 10
        assert llama.mean_kl(unrounded, ours) < 1.1 * of_rounding
