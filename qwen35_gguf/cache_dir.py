"""The folder of what is kept between runs and can be made again: tuned profiles, builds of llama.cpp."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "QWEN35_CACHE"


def cache_dir() -> Path:
    """Return `$QWEN35_CACHE`, or ~/.cache/qwen35-gguf where it is not set; patches/ and bench/ use the same folder."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "qwen35-gguf"


def profile_dir() -> Path:
    """Return the folder of the profiles that `qwen35 tune` saves."""
    return cache_dir() / "profiles"
