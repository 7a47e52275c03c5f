"""Attention by our kernels inside llama.cpp gives the logits of ggml's own kernels, with every type of KV cache.

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

TESTS = ROOT / "tests"
CACHES = ["f32", "f16", "bf16", "q8_0", "q4_0"]
SCENARIOS = ["steps", "rollback", "sequences", "yarn", "8,192"]
DEEP = ["8,192, yarn", "16,384"]
runtime = installed_runtime()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not runtime or not any(name.startswith("0009") for name in runtime.patches),
        reason="this llama.cpp has no other kernels for attention",
    ),
]


@pytest.fixture(scope="module")
def logits(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the logits of every scenario: ggml's and ours. The weights are in F32: nothing else is rounded."""
    folder = tmp_path_factory.mktemp("attention")
    (gguf,) = hf_to_gguf.convert(checkpoint(seed=1), "F32", folder, vision=False)
    sides = []
    for cpu in ("portable", ""):
        environment = os.environ | {"QWEN35_CPU": cpu, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
        command = [sys.executable, TESTS / "patches" / "attention_scenarios.py", gguf, folder / f"{cpu}.npz"]
        subprocess.run(command, check=True, env=environment)
        sides.append(dict(np.load(folder / f"{cpu}.npz")))
    return sides[0], sides[1]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("cache", CACHES)
def test_logits_are_those_of_ggml(logits: Any, cache: str, scenario: str) -> None:
    ggml, ours = (side[f"{cache} {scenario}"] for side in logits)
    # ggml rounds the queries to the type of the cache, we do not.
    allowed = 1e-5
    if cache in ("q8_0", "q4_0"):
        allowed += llama.mean_kl(logits[0][f"f16 {scenario}"], ggml)
    assert llama.mean_kl(ggml, ours) < allowed
    if cache in ("f32", "f16", "bf16"):
        assert (ggml.argmax(-1) == ours.argmax(-1)).mean() > 0.98  # random weights make near ties


@pytest.mark.parametrize("scenario", DEEP)
def test_logits_at_depth_are_those_of_ggml(logits: Any, scenario: str) -> None:
    """F16 within 1e-5; Q8_0 nearer than ggml's own Q8_0 is to its F16."""
    stock, ours = logits
    assert llama.mean_kl(stock[f"f16 {scenario}"], ours[f"f16 {scenario}"]) < 1e-5
    ggml = stock[f"q8_0 {scenario}"]
    assert llama.mean_kl(ggml, ours[f"q8_0 {scenario}"]) < llama.mean_kl(stock[f"f16 {scenario}"], ggml)


@pytest.mark.parametrize("cache", CACHES)
def test_the_same_number_of_threads_computes_the_same_bits(logits: Any, cache: str) -> None:
    _, ours = logits
    assert np.array_equal(ours[f"{cache} steps"], ours[f"{cache} again"])


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("cache", ["q8_0", "q4_0"])
def test_a_quantized_cache_is_as_close_to_f16_as_that_of_ggml(logits: Any, cache: str, scenario: str) -> None:
    ggml, ours = (side[f"{cache} {scenario}"] for side in logits)
    reference = logits[0][f"f16 {scenario}"]
    assert llama.mean_kl(reference, ours) < 1.1 * llama.mean_kl(reference, ggml)


@pytest.mark.parametrize("cache", CACHES)
def test_the_number_of_threads_changes_only_the_rounding(logits: Any, cache: str) -> None:
    _, ours = logits
    assert llama.mean_kl(ours[f"{cache} one thread"], ours[f"{cache} steps"]) < 1e-6
