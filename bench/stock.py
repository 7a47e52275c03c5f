"""The stock tools of llama.cpp, as published inside llama-cpp-python's sdist: its converter and its quantizer.

Both are made once and kept in $QWEN35_CACHE or ~/.cache/qwen35-gguf. Alone, this makes them and prints where they are:

.venv/bin/python bench/stock.py
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "patches"))
from sdist import NAME, VERSION, cache_folder, fail, fetch_sdist, run

ROOT = f"{NAME}/vendor/llama.cpp"
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


def build_stock(cache: Path | None = None) -> Stock:
    """Return the stock tools; the first call fetches and builds them, which takes minutes."""
    cache = cache or cache_folder()
    target = cache / f"stock-{VERSION}"
    stock = Stock(target, target / QUANTIZE)
    if not (stock.converter.is_file() and stock.quantize.is_file()):
        if not shutil.which("cmake"):
            fail("cmake is not installed; the stock quantizer is built with it")
        # Beside the target, so that the last step is a rename and an interrupted build leaves no half a tree.
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"stock-{VERSION}-") as folder:
            _make(Path(folder), target)
    return stock


def _make(scratch: Path, target: Path) -> None:
    """Fetch, check, unpack, build; move the parts that are used to the target."""
    print(f"making the stock tools of llama.cpp in {target}; once, this takes minutes", file=sys.stderr)
    with tarfile.open(fetch_sdist()) as archive:
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


def _build(sources: Path, folder: Path) -> Path:
    """Compile the quantizer alone, and return it."""
    options = [f"-D{name}={value}" for name, value in CMAKE_OPTIONS.items()]
    run(["cmake", "-S", str(sources), "-B", str(folder), *options], "cmake cannot configure llama.cpp")
    jobs = str(os.cpu_count() or 1)
    run(["cmake", "--build", str(folder), "--target", QUANTIZE, "-j", jobs], "llama-quantize cannot be built")
    return folder / "bin" / QUANTIZE


if __name__ == "__main__":
    made = build_stock()
    print(f"{made.converter}\n{made.quantize}")
