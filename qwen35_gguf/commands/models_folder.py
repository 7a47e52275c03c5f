"""Where `qwen35 convert` writes, and where models are looked for."""

from __future__ import annotations

from pathlib import Path

MODELS_FOLDER = Path("models")
