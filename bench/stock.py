"""The stock tools of llama.cpp, as published inside llama-cpp-python's sdist: its converter and its quantizer.

Both are made once and kept in $QWEN35_CACHE or ~/.cache/qwen35-gguf. Alone, this makes them and prints where they are:

.venv/bin/python bench/stock.py
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

VERSION = "0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
ROOT = f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
CONVERTER = ("convert_hf_to_gguf.py", "conversion", "gguf-py")
QUANTIZE = "llama-quantize"

# Everything that the quantizer does not need is off. Static, so that the program still runs after it was moved.
CMAKE_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",
    "LLAMA_ALL_WARNINGS": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",  # it would serve downloads only
}


@dataclass(frozen=True)
class Stock:
    """Where the stock tools are: `tree` holds convert_hf_to_gguf.py, conversion/ and gguf-py/."""

    tree: Path
    quantize: Path

    @property
    def converter(self) -> Path:
        """The script that turns a checkpoint into a GGUF."""
        return self.tree / CONVERTER[0]


def fail(message: str, code: int = 2) -> NoReturn:
    """End with one line on stderr."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def build_stock(cache: Path | None = None) -> Stock:
    """Return the stock tools; the first call fetches and builds them, which takes minutes."""
    cache = cache or Path(os.environ.get("QWEN35_CACHE") or Path.home() / ".cache" / "qwen35-gguf")
    target = cache / f"stock-{VERSION}"
    stock = Stock(target, target / QUANTIZE)
    if not (stock.converter.is_file() and stock.quantize.is_file()):
        if not shutil.which("cmake"):
            fail("cmake is not installed; the stock quantizer is built with it")
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"{cache}: cannot be made ({error.strerror}); set QWEN35_CACHE to another directory")
        # Beside the target, so that the last step is a rename and an interrupted build leaves no half a tree.
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"stock-{VERSION}-") as folder:
            _make(Path(folder), target)
    return stock


def _make(scratch: Path, target: Path) -> None:
    """Fetch, check, unpack, build; move the parts that are used to the target."""
    print(f"making the stock tools of llama.cpp in {target}; once, this takes minutes", file=sys.stderr)
    sdist = _download(scratch / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, [m for m in archive if m.name.startswith(f"{ROOT}/")], filter="data")
    sources, done = scratch / ROOT, scratch / "done"
    done.mkdir()
    _build(sources, scratch / "build").rename(done / QUANTIZE)
    for name in CONVERTER:
        (sources / name).rename(done / name)
    shutil.rmtree(target, ignore_errors=True)  # what is there is incomplete
    try:
        done.rename(target)
    except OSError:  # another run was faster
        if not (target / QUANTIZE).is_file():
            raise


def _download(folder: Path) -> Path:
    """Fetch the sdist and hold it against its checksum. pip also makes its metadata, which takes most of a minute."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:", "-d", str(folder)]
    _run([*command, f"llama-cpp-python=={VERSION}"], "the sdist of llama-cpp-python cannot be fetched")
    found = list(folder.glob("llama_cpp_python-*.tar.gz"))
    if not found:
        fail(f"pip download brought no sdist of llama-cpp-python {VERSION}", 1)
    digest = hashlib.sha256()
    with found[0].open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != SDIST_SHA256:
        fail(f"{found[0].name}: has SHA-256 {digest.hexdigest()}, expected {SDIST_SHA256}", 1)
    return found[0]


def _build(sources: Path, folder: Path) -> Path:
    """Compile the quantizer alone, and return it."""
    options = [f"-D{name}={value}" for name, value in CMAKE_OPTIONS.items()]
    _run(["cmake", "-S", str(sources), "-B", str(folder), *options], "cmake cannot configure llama.cpp")
    jobs = str(os.cpu_count() or 1)
    _run(["cmake", "--build", str(folder), "--target", QUANTIZE, "-j", jobs], "llama-quantize cannot be built")
    return folder / "bin" / QUANTIZE


def _run(command: list[str], problem: str) -> None:
    """Run a step in silence; what it said last is shown only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout.strip()[-2000:], file=sys.stderr)
        fail(f"{problem}; what it said is above", 1)


if __name__ == "__main__":
    made = build_stock()
    print(f"{made.converter}\n{made.quantize}")
