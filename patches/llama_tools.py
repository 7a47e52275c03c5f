"""Build llama.cpp's own programs with the patches, or patch a checkout of llama.cpp.

python patches/llama_tools.py [--out llama.cpp]   llama-server, llama-cli, llama-bench, llama-quantize, ... in OUT/bin
python patches/llama_tools.py --checkout DIR      copies the kernels into DIR and applies the patches, no more

The source is that of llama-cpp-python, as for `make runtime`; CMAKE_ARGS is passed on. A checkout is patched as a whole
or not at all: it must be a git checkout of llama.cpp without changes, and every patch must apply.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from build import DEFAULT_CMAKE_ARGS, HERE, KERNEL_TARGET, copy_kernels, patch, series
from sdist import NAME, cache_folder, fail, fetch_sdist, run, unpack

INSIDE = "vendor/llama.cpp"  # where llama-cpp-python has it
MARKS = ("ggml/src/ggml-cpu/CMakeLists.txt", "include/llama.h", "src/llama-model.cpp")
OPTIONS = "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_ALL_WARNINGS=OFF"


def main() -> None:
    """Build the programs, or patch the checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "llama.cpp", help="folder for the programs")
    parser.add_argument("--checkout", type=Path, metavar="DIR", help="patch this checkout of llama.cpp instead")
    options = parser.parse_args()
    if options.checkout:
        patch_checkout(options.checkout)
        print(f"{options.checkout}: has the patches now; build it as usual (to undo: git checkout . && git clean -fd)")
    else:
        build_tools(options.out)
        programs = sorted(path.name for path in (options.out / "bin").iterdir() if path.name.startswith("llama-"))
        print(f"{options.out / 'bin'}: {', '.join(programs)}")


def build_tools(out: Path) -> None:
    """Compile and install the programs and their libraries; the objects are kept in the cache."""
    for program in ("git", "cmake"):
        if not shutil.which(program):
            fail(f"{program} is not installed: it is needed to build llama.cpp; install it")
    folder = cache_folder() / "llama.cpp-tools"
    folder.mkdir(exist_ok=True)
    source = folder / "source"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        unpack(fetch_sdist(), Path(scratch))
        patch(Path(scratch, NAME), series())
        shutil.rmtree(source, ignore_errors=True)
        Path(scratch, NAME, INSIDE).rename(source)
    (source / ".git").unlink(missing_ok=True)  # of a submodule, which is not there
    more = shlex.split(os.environ.get("CMAKE_ARGS", ""))
    rpath = "-DCMAKE_INSTALL_RPATH=" + ("@loader_path/../lib" if sys.platform == "darwin" else "$ORIGIN/../lib")
    settings = [*shlex.split(f"{DEFAULT_CMAKE_ARGS} {OPTIONS}"), "-DCMAKE_BUILD_TYPE=Release", rpath, *more]
    objects = folder / "build"
    print("compiling llama.cpp with the patches: this takes minutes", file=sys.stderr)
    run(["cmake", "-S", str(source), "-B", str(objects), *settings], "llama.cpp cannot be configured")
    build = ["cmake", "--build", str(objects), "--config", "Release", "--parallel", str(os.cpu_count() or 1)]
    run(build, "llama.cpp cannot be compiled")
    install = ["cmake", "--install", str(objects), "--config", "Release", "--prefix", str(out.resolve())]
    run(install, "llama.cpp cannot be installed")


def patch_checkout(checkout: Path) -> None:
    """Copy the kernels into a checkout of llama.cpp and apply the patches; change nothing if one does not apply."""
    missing = [mark for mark in MARKS if not (checkout / mark).is_file()]
    if missing:
        fail(f"{checkout}: is not a checkout of llama.cpp, or too old (it has no {missing[0]})")
    kernels = checkout / KERNEL_TARGET.removeprefix(f"{INSIDE}/")
    if kernels.exists():
        fail(f"{checkout}: has {kernels.name} already; undo an earlier series first: git checkout . && git clean -fd")
    top = _git(checkout, "rev-parse", "--show-toplevel")
    if top.returncode or Path(top.stdout.strip()).resolve() != checkout.resolve():
        fail(f"{checkout}: is not the top of a git checkout, so that the patches could not be undone; clone llama.cpp")
    if _git(checkout, "status", "--porcelain").stdout.strip():
        fail(f"{checkout}: has changes that are not committed; commit or stash them first")
    whole = "".join(
        file.read_text(encoding="utf-8") for file in series()
    )  # as one, it applies as a whole or not at all
    apply = ["apply", "-p3", "--whitespace=nowarn", "-"]
    tried = _git(checkout, *apply, "--check", text=whole)
    if tried.returncode:
        reason = tried.stderr.strip().splitlines()[0].removeprefix("error: ")
        fail(f"{checkout}: the patches do not apply ({reason}); patches/README.md says to which commits they do")
    copy_kernels(kernels)
    done = _git(checkout, *apply, text=whole)
    if done.returncode:
        shutil.rmtree(kernels)
        fail(f"{checkout}: {done.stderr.strip().splitlines()[0]}", 1)


def _git(folder: Path, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
