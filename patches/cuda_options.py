"""Options to build llama.cpp for NVIDIA GPUs, also with an incomplete CUDA toolkit.

If the toolkit has no cuBLAS (as in small container images), it is fetched from the package index into the cache; the
built library refers to that folder. Without the driver's library to link with, memory pools are ggml's own
(GGML_CUDA_NO_VMM), which also lets the build load on a machine without a driver: it finds no GPU there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sdist import cache_folder, fail, run

ARCHITECTURES = re.compile(r"native|\d{2,3}[af]?(-real|-virtual)?(;\d{2,3}[af]?(-real|-virtual)?)*")
USUAL = Path("/usr/local/cuda/bin/nvcc")
OLDEST = 12  # CUDA version whose cuBLAS the package index has in this form


class Toolkit(NamedTuple):
    """An installed CUDA toolkit: its compiler, its folder, and its version."""

    nvcc: Path
    root: Path
    version: tuple[int, int]


def cuda_options(architectures: str) -> str:
    """Return the options for a build for these architectures: 86, 89, 90a, several by semicolons, or native.

    Exits with code 2 and one line if there is no compiler, or `architectures` is not valid.
    """
    if not ARCHITECTURES.fullmatch(architectures):
        fail(f"--cuda {architectures}: is not an architecture; write 86 (RTX 30), 89 (RTX 40), 120 (RTX 50) or native")
    toolkit = find_toolkit()
    arguments = {
        "GGML_CUDA": "ON",
        "GGML_CUDA_NCCL": "OFF",
        "CMAKE_CUDA_ARCHITECTURES": architectures,
        "CMAKE_CUDA_COMPILER": str(toolkit.nvcc),
    }
    if not find(toolkit.root, "cublas_v2.h"):
        folder = fetch_cublas(toolkit.version)
        for name in ("cublas", "cublasLt"):
            arguments[f"CUDA_{name}_LIBRARY"] = str(next(folder.rglob(f"lib{name}.so.*")))
        arguments["CMAKE_CUDA_FLAGS"] = f"-I{next(folder.rglob('cublas_v2.h')).parent}"
    if not has_driver(toolkit.root):
        arguments["GGML_CUDA_NO_VMM"] = "ON"
    return " ".join(f"-D{name}={quoted(value)}" for name, value in arguments.items())


def quoted(value: str) -> str:
    """Quote a value that a shell would split."""
    return f"'{value}'" if re.search(r"[\s;]", value) else value


def find_toolkit() -> Toolkit:
    """Find nvcc in $CUDA_HOME, on the path or at its usual place, and ask it for its toolkit's folder and version."""
    homes = [Path(os.environ[name], "bin", "nvcc") for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    found = shutil.which("nvcc")
    candidates = [*homes, *([Path(found)] if found else []), USUAL]
    nvcc = next((path for path in candidates if path.is_file()), None)
    if nvcc is None:
        fail("nvcc is not found: install NVIDIA's CUDA toolkit, or set CUDA_HOME to its folder")
    output = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.+)$", output, re.MULTILINE)
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.(\d+)", version)
    if top is None or release is None:
        fail(f"{nvcc}: does not report the folder and version of its toolkit; reinstall NVIDIA's CUDA toolkit")
    root = Path(top[1].strip()).resolve()
    real = root / "bin" / "nvcc"  # the one on the path may be a script
    return Toolkit(real if real.is_file() else nvcc, root, (int(release[1]), int(release[2])))


def fetch_cublas(version: tuple[int, int]) -> Path:
    """Return a cached folder with cuBLAS for this version, from the package index."""
    major, minor = version
    folder = cache_folder() / f"cublas-{major}.{minor}"
    if find(folder, "cublas_v2.h"):
        return folder
    if major < OLDEST:
        fail(f"CUDA {major}.{minor} without cuBLAS: install the toolkit's cuBLAS, or CUDA {OLDEST} or later")
    package = "nvidia-cublas" if major > OLDEST else f"nvidia-cublas-cu{major}"
    print(f"this CUDA toolkit has no cuBLAS: fetching {package} {major}.{minor}, about 400 MB", file=sys.stderr)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(part)]
    run([*command, f"{package}=={major}.{minor}.*"], "cuBLAS cannot be fetched; install the toolkit's own")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def find(root: Path, name: str) -> bool:
    """Return whether a toolkit, or a package of it, has this header."""
    return any(True for _ in _places(root, name))


def _places(root: Path, name: str) -> Iterator[Path]:
    for pattern in (f"include/{name}", f"targets/*/include/{name}", f"nvidia/*/include/{name}"):
        yield from root.glob(pattern)


def has_driver(root: Path) -> bool:
    """Return whether there is a libcuda to link with: the driver's, or the toolkit's stub."""
    patterns = ("lib64/stubs/libcuda.so", "targets/*/lib/stubs/libcuda.so", "lib/stubs/libcuda.so")
    stub = any(path.exists() for pattern in patterns for path in root.glob(pattern))
    known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    return stub or "libcuda.so " in known
