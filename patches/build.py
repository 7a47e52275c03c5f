"""Build and install llama-cpp-python with the patches in this folder.

python patches/build.py [--stock] [--cuda ARCHITECTURE] [--python VENV/bin/python]

pip fetches the source from the package index, and its checksum is verified. The kernels of ggml_ops are copied into
ggml's source, and the patches are applied with `git apply`. CMAKE_ARGS is passed on, so that Metal and Vulkan builds
have the patches too; cuda_options.py finds the options for CUDA. The wheel is cached: the next environment installs it
in seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from amx import options_without_amx
from cuda_options import cuda_options
from sdist import NAME, SHA256, cache_folder, checksum, fail, fetch_sdist, run, unpack

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent / "ggml_ops"
KERNEL_FOLDERS = ("simd", "attention", "delta_net", "quantized_matmul", "float_matmul", "llama_cpp")
KERNEL_SUFFIXES = (".cmake", ".cpp", ".h")
KERNEL_TARGET = "vendor/llama.cpp/ggml/src/ggml_ops"
# Only the extension for Python needs these.
NOT_KERNELS = frozenset({"aligned_bytes.h", "bind.cpp", "find_target.h", "sources.cmake", "targets.cmake", "threads.h"})
COMPILED_FOR = "instruction_sets"  # beside a wheel: those of the processor that GGML_NATIVE compiled it for
DEFAULT_CMAKE_ARGS = "-DGGML_NATIVE=ON -DGGML_RPC=ON"


def main() -> None:
    """Build the wheel unless it is cached, and install it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock", action="store_true", help="without the patches, to compare with")
    parser.add_argument("--cuda", metavar="ARCHITECTURE", default="", help="for NVIDIA GPUs: 86, 89, ... or native")
    parser.add_argument("--wheel", metavar="FOLDER", help="copy the wheel there instead of installing it")
    parser.add_argument("--series", action="store_true", help="print what identifies patches and kernels, and end")
    parser.add_argument("--python", default=sys.executable, help="of the environment to install into")
    options = parser.parse_args()
    if options.series:
        print(series_id())
        return
    patches = [] if options.stock else series()
    wheel = build(patches, cuda_options(options.cuda) if options.cuda else "")
    if options.wheel:
        shutil.copy(wheel, options.wheel)
        return
    pip = [options.python, "-m", "pip", "install", "--quiet"]
    run([*pip, str(wheel)], "llama-cpp-python cannot be installed")
    # The same version may be installed already, with other patches or none.
    run([*pip, "--force-reinstall", "--no-deps", str(wheel)], "llama-cpp-python cannot be installed")


def build(patches: list[Path], more_args: str = "") -> Path:
    """Return the wheel of the patched source for this Python; build it if it is not cached."""
    stock = " ".join(f"-D{name}='{value}'" for name, value in options_without_amx().items()) if not patches else ""
    cmake_args = " ".join(filter(None, (DEFAULT_CMAKE_ARGS, stock, more_args, os.environ.get("CMAKE_ARGS", ""))))
    folder = cache_folder() / "wheels" / key(patches, cmake_args)
    found = list(folder.glob("*.whl"))
    if found and fits_processor(folder / COMPILED_FOR):
        return found[0]
    if not shutil.which("git"):
        fail("git is not installed: it applies the patches; install git")
    sdist = fetch_sdist()
    folder.parent.mkdir(exist_ok=True)
    what = f"with {len(patches)} patches" if patches else "without patches"
    print(f"compiling llama-cpp-python {what}: this takes minutes, once", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpack(sdist, Path(scratch))
        source = Path(scratch, NAME)
        if patches:
            patch(source, patches)
        wheels = Path(scratch, "wheels")
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(wheels), str(source)]
        run(command, "llama-cpp-python cannot be compiled", env=os.environ | {"CMAKE_ARGS": cmake_args})
        (wheels / COMPILED_FOR).write_text(" ".join(sorted(instruction_sets())))
        shutil.rmtree(folder, ignore_errors=True)
        wheels.rename(folder)
    return next(folder.glob("*.whl"))


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return what the processor has, in Linux' names; empty elsewhere."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(found.partition(":")[2].split())


def fits_processor(record: Path) -> bool:
    """Return whether a kept wheel runs here: the cache may be in a home directory that other machines share."""
    try:
        return set(record.read_text().split()) <= instruction_sets()
    except OSError:
        return True  # not recorded


def patch(source: Path, patches: list[Path]) -> None:
    """Copy the kernels, apply the patches in order, and record their names in the package."""
    copy_kernels(source / KERNEL_TARGET)
    for file in patches:
        # As if outside of any repository: otherwise git skips the files that an enclosing one ignores.
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(source.parent)}
        command = ["git", "apply", "--whitespace=nowarn", str(file)]
        done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr.strip()[-2000:], file=sys.stderr)
            fail(
                f"{file.name} does not apply to {NAME}: restore patches/ and ggml_ops/ with git, "
                "or install without patches: make runtime STOCK=1",
                1,
            )
    names = [file.stem for file in patches]
    listing = f'"""The patches of this build."""\n\nPATCHES = {names!r}\nSERIES = "{series_id()}"\n'
    (source / "llama_cpp" / "qwen35_patches.py").write_text(listing)


def copy_kernels(folder: Path) -> None:
    """Copy the sources of the kernels into that folder of ggml's source."""
    for name in KERNEL_FOLDERS:
        for file in kernel_sources(name):
            target = folder / file.relative_to(KERNELS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


def key(patches: list[Path], cmake_args: str) -> str:
    """Return a name for everything a wheel depends on: source, patches, kernels, options, Python, machine, flags."""
    digest = hashlib.sha256()
    parts = [SHA256, cmake_args, sysconfig.get_platform(), sys.implementation.cache_tag or "", platform.processor()]
    if patches:
        files = [*patches, *(file for name in KERNEL_FOLDERS for file in kernel_sources(name))]
        parts += [f"{file.parent.name}/{file.name} {checksum(file)}" for file in files]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return ("patched-" if patches else "stock-") + digest.hexdigest()[:16]


def series() -> list[Path]:
    """List the patches, in order."""
    return sorted(HERE.glob("[0-9]*.patch"))


def series_id() -> str:
    """Return eight hexadecimal digits that stand for the patches and the kernels that they call."""
    files = [*series(), *(file for name in KERNEL_FOLDERS for file in kernel_sources(name))]
    listing = "".join(f"{file.parent.name}/{file.name} {checksum(file)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()[:8]


def kernel_sources(folder: str) -> list[Path]:
    """List the sources of a folder of ggml_ops and of the folders in it, without the bindings to Python."""
    files = sorted((KERNELS / folder).rglob("*"))
    return [file for file in files if file.suffix in KERNEL_SUFFIXES and file.name not in NOT_KERNELS]


if __name__ == "__main__":
    main()
