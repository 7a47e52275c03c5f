"""The folder of what is kept between runs and can be made again: tuned profiles, builds of llama.cpp.

Source: the XDG Base Directory Specification, by which a relative `XDG_CACHE_HOME` does not count.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "QWEN35_CACHE"


def cache_dir() -> Path:
    """Return `$QWEN35_CACHE`, or qwen35-gguf in `$XDG_CACHE_HOME` or ~/.cache, as patches/ and bench/ do."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "qwen35-gguf"


def profile_dir() -> Path:
    """Return the folder of the profiles that `qwen35 tune` saves."""
    return cache_dir() / "profiles"
