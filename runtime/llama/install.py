"""Find the installed llama-cpp-python without loading it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

STOCK_NOTE = (
    "note: this llama-cpp-python is stock: DeltaNet layers run several times slower, and their state is copied for "
    "every token; `make runtime` builds a patched one"
)


class Installed(NamedTuple):
    """An installed llama-cpp-python: its version, and the names of its patches (none: it is stock)."""

    version: str
    folder: Path
    patches: tuple[str, ...]


def installed_runtime() -> Installed | None:
    """Describe the installed llama-cpp-python, or return None if there is none."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    version = re.search(r'__version__ = "([^"]+)"', (folder / "__init__.py").read_text())
    listing = folder / "qwen35_patches.py"
    names = re.findall(r"'([^']+)'", listing.read_text()) if listing.is_file() else []
    return Installed(version[1] if version else "unknown", folder, tuple(names))
