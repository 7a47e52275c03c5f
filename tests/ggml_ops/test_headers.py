"""Every header compiles alone, as an editor opens it, and so does the glue that the patches call."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

import sdist
from oracles.paths import ROOT

KERNELS = ROOT / "ggml_ops"
GLUE = KERNELS / "llama_cpp"
GGML = "vendor/llama.cpp/ggml"
CROSS_COMPILER = "aarch64-linux-gnu-g++"
CHECK = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-unused-function", "-x", "c++"]
AVX2 = ["-DSIMD_X86", "-mavx2", "-mf16c", "-mfma"]
AVX512 = ["-DSIMD_X86", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
AVX512 += ["-mavx512bf16", "-mfma", "-mf16c"]
ARM64 = ["-DSIMD_ARM64", "-march=armv8.2-a+dotprod+i8mm"]
VBMI = [*AVX512, "-mavx512vbmi", "-mgfni"]

HEADERS = sorted(file for file in KERNELS.glob("**/*.h") if file.parent != GLUE)
# Of quantized_matmul, these use no intrinsics.
PORTABLE = {
    "activations.h",
    "bytes_portable.h",
    "format_table.h",
    "list.h",
    "quantized_matmul.h",
    "tables.h",
    "targets.h",
}

on_x86 = platform.machine().lower() in ("x86_64", "amd64")


def name(file: Path) -> str:
    return file.relative_to(KERNELS).as_posix()


def compile_alone(file: Path, compiler: str, flags: list[str]) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"needs {compiler}")
    done = subprocess.run([compiler, *CHECK, *flags, str(file)], capture_output=True, text=True, check=False)
    problems = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 0, "\n".join(problems) or done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("file", HEADERS, ids=name)
def test_a_header_compiles_alone(file: Path) -> None:
    if "neon" in file.name or "i8mm" in file.name:
        compile_alone(file, "g++" if platform.machine() == "aarch64" else CROSS_COMPILER, ARM64)
        return
    if file.parent.name == "plain":
        compile_alone(file, "g++", [])
        return
    needs_x86 = "avx" in file.name or ("quantized_matmul" in file.parts and file.name not in PORTABLE)
    if needs_x86 and not on_x86:
        pytest.skip("needs an x86 compiler")
    flags = VBMI if "vbmi" in file.name else AVX512 if "avx512" in file.name else AVX2
    compile_alone(file, "g++", flags if needs_x86 else [])


@pytest.mark.unit
def test_every_header_is_guarded() -> None:
    for file in (*HEADERS, *GLUE.glob("*.h")):
        assert file.read_text().count("#pragma once\n") == 1, name(file)


@pytest.fixture(scope="module")
def ggml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The headers of the ggml that the patches are for, from the cached source of llama-cpp-python."""
    archive = sdist.cache_folder() / f"{sdist.NAME}.tar.gz"
    if not archive.is_file():
        pytest.skip(f"needs {archive.name} in the cache: python patches/build.py fetches it")
    folder = tmp_path_factory.mktemp("ggml")
    sdist.unpack(archive, folder, (f"{sdist.NAME}/{GGML}/",))
    return folder / sdist.NAME / GGML


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted([*GLUE.glob("*.h"), *GLUE.glob("*.cpp")]), ids=name)
def test_the_glue_compiles_with_the_headers_of_ggml(file: Path, ggml: Path) -> None:
    flags = [f"-I{ggml}/include", f"-I{ggml}/src", f"-I{ggml}/src/ggml-cpu"]
    compile_alone(file, "g++", flags)
