"""ggml's own test of operations, test-backend-ops, on the patched library: each against ggml's reference kernels."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import sdist
from qwen35_gguf.runtime.llama.install import installed_runtime

runtime = installed_runtime()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="needs g++"),
    pytest.mark.skipif(
        not runtime or not runtime.patches or runtime.is_engine, reason="needs a patched llama-cpp-python"
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test as llama.cpp has it, linked with the libraries that are installed."""
    assert runtime
    folder = tmp_path_factory.mktemp("llama.cpp")
    source = f"{sdist.PINNED.name}/{sdist.PINNED.folder}"
    needed = ("tests/test-backend-ops.cpp", "ggml/include/")
    sdist.unpack(sdist.fetch_sdist(), folder, tuple(f"{source}/{name}" for name in needed))
    libraries = [str(runtime.library(name)) for name in ("ggml", "ggml-cpu", "ggml-base")]
    paths = ["-I", str(folder / source / needed[1]), f"-Wl,-rpath,{runtime.folder / 'lib'}"]
    program = folder / "test-backend-ops"
    test = str(folder / source / needed[0])
    subprocess.run(["g++", "-std=c++17", "-O1", *paths, test, *libraries, "-pthread", "-o", str(program)], check=True)
    return program


# Without matrices of experts so large that their float32 copies take hours: their types and kernels are in the others.
NO_LARGE_ONES = "^(?!.*(m=4096|k=2048|m=2880|k=2880|m=2048))"


@pytest.mark.parametrize(
    ("operation", "least", "choice"),
    [
        ("GATED_DELTA_NET", 30, []),
        ("SSM_CONV", 10, []),
        ("FLASH_ATTN_EXT", 5000, []),
        ("MUL_MAT", 1000, []),
        ("MUL_MAT_ID", 900, ["-p", NO_LARGE_ONES]),
    ],
)
def test_an_operation_is_that_of_ggml(program: Path, operation: str, least: int, choice: list[str]) -> None:
    """`least` keeps a run that selects nothing from passing."""
    command = [program, "test", "-b", "CPU", "-o", operation, *choice]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    failed = [line for line in done.stdout.splitlines() if "FAIL" in line]
    assert done.returncode == 0, "\n".join(failed[-20:])
    found = re.search(r"(\d+)/(\d+) tests passed", done.stdout)
    assert found
    assert found[1] == found[2]
    assert int(found[2]) >= least
