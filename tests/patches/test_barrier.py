"""Threads that meet at ggml's barrier several hundred times a token: none continues before the last one has come, none
sleeps for ever, and a number of threads always computes the same bits, busy processes beside or not.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from oracles import llama
from oracles.paths import ROOT
from qwen35_gguf.convert import hf_to_gguf

SOURCES = [
    ROOT / "tests" / "patches" / "wait_in_turns.cpp",
    ROOT / "ggml_ops" / "llama_cpp" / "ggml_wait.cpp",
    ROOT / "ggml_ops" / "simd" / "spin_wait.cpp",
]
TOKENS = 200


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    program = tmp_path_factory.mktemp("barrier") / "wait_in_turns"
    flags = ["-DSIMD_X86"] if platform.machine().lower() in ("x86_64", "amd64") else []
    options = ["-std=c++17", "-O2", "-pthread", "-I", str(ROOT / "ggml_ops"), *flags]
    subprocess.run([compiler, *options, *map(str, SOURCES), "-o", str(program)], check=True)
    return program


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ggml waits as it does without the patch")
@pytest.mark.parametrize("busy", [0, 2])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_threads_meet_many_times(program: Path, threads: int, busy: int) -> None:
    """Late threads make the others sleep; with more threads than processors they lose these as well."""
    with busy_processes(busy):
        subprocess.run([program, str(threads), "800"], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_short_graphs_beside_busy_processes_compute_the_same_bits(
    checkpoint: Callable[..., Path], tmp_path: Path, threads: int
) -> None:
    (gguf,) = hf_to_gguf.convert(checkpoint(seed=1), "Q8_0", tmp_path, vision=False)
    tokens = np.random.default_rng(5).integers(0, 2033, TOKENS).tolist()
    found = []
    with llama.loaded(gguf) as model:
        for busy in (0, 2):
            with busy_processes(busy), llama.context(model, TOKENS, n_threads=threads, n_threads_batch=threads) as ctx:
                rows = [llama.decode(ctx, [token], at, 2033) for at, token in enumerate(tokens)]
                found.append(np.concatenate(rows))
    assert np.array_equal(found[0], found[1])
