"""Build llama.cpp's stock tools from llama-cpp-python's sdist: converter, quantizer, perplexity, imatrix, splitter.

They are built once and kept in $QWEN35_CACHE or ~/.cache/qwen35-gguf. Run as a script, this builds them and prints
their paths:

.venv/bin/python bench/stock.py
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "patches"))
from amx import options_without_amx
from sdist import NAME, VERSION, cache_folder, fail, fetch_sdist, run, unpack

ROOT = f"{NAME}/vendor/llama.cpp"
CONVERTER = ("convert_hf_to_gguf.py", "conversion", "gguf-py")
TOOLS = ("llama-quantize", "llama-perplexity", "llama-imatrix", "llama-gguf-split")

# What these tools do not need is off. Static, so that the programs still run after they were moved.
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
    "LLAMA_OPENSSL": "OFF",  # used for downloads only
} | options_without_amx()


@dataclass(frozen=True)
class Stock:
    """Where the stock tools are: `tree` holds convert_hf_to_gguf.py, conversion/ and gguf-py/."""

    tree: Path

    @property
    def converter(self) -> Path:
        """The script that turns a checkpoint into a GGUF."""
        return self.tree / CONVERTER[0]

    @property
    def quantize(self) -> Path:
        """llama-quantize."""
        return self.tree / TOOLS[0]

    @property
    def perplexity(self) -> Path:
        """llama-perplexity."""
        return self.tree / TOOLS[1]

    @property
    def imatrix(self) -> Path:
        """llama-imatrix."""
        return self.tree / TOOLS[2]

    @property
    def split(self) -> Path:
        """llama-gguf-split."""
        return self.tree / TOOLS[3]

    @property
    def complete(self) -> bool:
        """Whether all tools exist."""
        return all((self.tree / name).is_file() for name in (CONVERTER[0], *TOOLS))


def build_stock(cache: Path | None = None) -> Stock:
    """Return the stock tools; the first call fetches and builds them, which takes minutes."""
    cache = cache or cache_folder()
    target = cache / f"stock-{VERSION}-{_key()}"
    stock = Stock(target)
    if not stock.complete:
        if not shutil.which("cmake"):
            fail("cmake is not installed; the stock tools are built with it")
        # In the same folder as the target: the last step is a rename, so an interrupted build leaves nothing half-made.
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"stock-{VERSION}-") as folder:
            _make(Path(folder), target)
    return stock


def _key() -> str:
    """Return a hash of the tools and options: another list of either is another folder."""
    return hashlib.sha256(repr((CONVERTER, TOOLS, sorted(CMAKE_OPTIONS.items()))).encode()).hexdigest()[:8]


def _make(scratch: Path, target: Path) -> None:
    """Fetch, check, unpack, build; move the parts that are used to the target."""
    print(f"building the stock tools of llama.cpp in {target}; this takes minutes, once", file=sys.stderr)
    unpack(fetch_sdist(), scratch, (f"{ROOT}/",))
    sources, done = scratch / ROOT, scratch / "done"
    done.mkdir()
    for tool in _build(sources, scratch / "build"):
        tool.rename(done / tool.name)
    for name in CONVERTER:
        (sources / name).rename(done / name)
    shutil.rmtree(target, ignore_errors=True)  # an incomplete build
    try:
        done.rename(target)
    except OSError:  # another run was faster
        if not Stock(target).complete:
            raise


def _build(sources: Path, folder: Path) -> list[Path]:
    """Compile the tools alone, and return them."""
    options = [f"-D{name}={value}" for name, value in CMAKE_OPTIONS.items()]
    run(["cmake", "-S", str(sources), "-B", str(folder), *options], "cmake cannot configure llama.cpp")
    jobs = str(os.cpu_count() or 1)
    run(["cmake", "--build", str(folder), "-j", jobs, "--target", *TOOLS], "the stock tools cannot be built")
    return [folder / "bin" / name for name in TOOLS]


if __name__ == "__main__":
    made = build_stock()
    print(made.converter, made.quantize, made.perplexity, made.imatrix, made.split, sep="\n")
