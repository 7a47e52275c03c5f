"""Find the package that brings llama.cpp, without loading it.

Two packages can: `qwen35_engine`, the wheel with the patches for every processor, and `llama_cpp` (llama-cpp-python),
compiled on this machine with the patches or without. They do not disturb each other: the engine's libraries have names
of their own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

ENGINE, BINDINGS = "qwen35_engine", "llama_cpp"
DISTRIBUTIONS = {ENGINE: "qwen35-engine", BINDINGS: "llama-cpp-python"}
VARIABLE = "QWEN35_ENGINE"  # names the one to use


class Installed(NamedTuple):
    """An installed llama.cpp: its version, and the names of its patches (none: it is stock).

    Attributes:
        version: of the package.
        folder: of the package; its libraries are in `lib`.
        patches: names, in order.
        package: to import, `qwen35_engine` or `llama_cpp`.
        series: identifies the patches and the kernels that they call; empty if it is not recorded.

    """

    version: str
    folder: Path
    patches: tuple[str, ...]
    package: str = BINDINGS
    series: str = ""

    @property
    def distribution(self) -> str:
        """The name that pip knows it by."""
        return DISTRIBUTIONS[self.package]

    @property
    def is_engine(self) -> bool:
        """Whether it is the wheel that chooses its backend when it is loaded."""
        return self.package == ENGINE

    def library(self, name: str) -> Path:
        """Return the path of a library: "ggml-base", "ggml", "llama", "mtmd"; it may not exist."""
        suffix = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
        prefix = ("" if sys.platform == "win32" else "lib") + ("qwen35-" if self.is_engine else "")
        return self.folder / "lib" / f"{prefix}{name}{suffix}"


def installed_runtime() -> Installed | None:
    """Describe the llama.cpp to use, or return None if there is none.

    A llama-cpp-python with patches was compiled for this machine and comes first, then the engine, then a stock
    llama-cpp-python. `$QWEN35_ENGINE` names another choice.
    """
    if (named := os.environ.get(VARIABLE)) in DISTRIBUTIONS:
        return _describe(named)
    compiled = _describe(BINDINGS)
    if compiled is not None and compiled.patches:
        return compiled
    return _describe(ENGINE) or compiled


def _describe(package: str) -> Installed | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return describe(Path(next(iter(spec.submodule_search_locations))), package)


def describe(folder: Path, package: str) -> Installed | None:
    """Describe the package in a folder by its files; None if there is none."""
    try:
        version = re.search(r'__version__ = "([^"]+)"', (folder / "__init__.py").read_text(encoding="utf-8"))
    except OSError:
        return None
    listing = folder / "qwen35_patches.py"
    text = listing.read_text(encoding="utf-8") if listing.is_file() else ""
    names, _, rest = text.partition("]")
    series = re.search(r'^SERIES = "(\w+)"', rest, re.MULTILINE)
    patches = tuple(re.findall(r"'([^']+)'", names))
    return Installed(version[1] if version else "unknown", folder, patches, package, series[1] if series else "")
