"""Quantized weights multiplied by our kernels inside llama.cpp give the logits that ggml's own kernels give.

QWEN35_CPU=portable selects ggml's own kernels. The choice is made once per process, so each side has its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles import llama
from oracles.paths import ROOT
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.llama.install import installed_runtime

Array = np.ndarray[Any, Any]

MORE_TYPES = ["Q2_K", "Q3_K_M", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"]
TYPES = [
    *("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "IQ4_XS"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_TYPES),
]
# An activation at the boundary of two of its 255 values moves with the last bit of a sum, and the tokens behind it
# then cost about 1e-4 each. With this seed of the experts, that adds up to less than 8e-5 on AVX2, AVX-512 and VNNI.
MODELS = {"dense": {"seed": 1}, "experts": {"moe": True, "seed": 7}}
TESTS = ROOT / "tests"
runtime = installed_runtime()

pytestmark = pytest.mark.skipif(not (runtime and runtime.patches), reason="a stock llama.cpp has no other kernels")

# A batch of twenty tokens, one of three, single tokens, and a batch of five.
DECODE = """
import sys
import llama_cpp
import numpy as np
from oracles import llama

tokens = np.random.default_rng(5).integers(0, 2033, 30).tolist()
with llama.loaded(sys.argv[1]) as model:
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    with llama.context(model, 64, n_threads=int(sys.argv[3]), n_threads_batch=int(sys.argv[3])) as ctx:
        rows, start = [], 0
        for count in (20, 3, 1, 1, 5):
            rows.append(llama.decode(ctx, tokens[start : start + count], start, vocab))
            start += count
        np.save(sys.argv[2], np.concatenate(rows))
"""


def logits(gguf: Path, out: Path, cpu: str, threads: int) -> Array:
    environment = os.environ | {"QWEN35_CPU": cpu, "PYTHONPATH": str(TESTS)}
    subprocess.run([sys.executable, "-c", DECODE, gguf, out, str(threads)], check=True, env=environment)
    return np.load(out)


@pytest.mark.parametrize("quant", TYPES)
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_logits_are_those_of_ggml(
    checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, Any], quant: str
) -> None:
    (gguf,) = hf_to_gguf.convert(checkpoint(**options), quant, tmp_path, vision=False)
    reference = logits(gguf, tmp_path / "ggml.npy", "portable", 2)
    for threads in (1, 2, 3):
        found = logits(gguf, tmp_path / "ours.npy", "", threads)
        assert llama.mean_kl(reference, found) < 1e-4
        # Random weights make near ties.
        assert (reference.argmax(-1) == found.argmax(-1)).mean() > 0.9
