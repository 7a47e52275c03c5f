"""JSON files of a checkpoint, as plain dictionaries: what has not moved to `qwen35_gguf.json_file` yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwen35_gguf import json_file
from qwen35_gguf.json_file import read_text

__all__ = ["read_json", "read_text"]


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file; {} if the file is optional and absent. Raises CheckpointError."""
    return dict(json_file.read_json(path, optional=optional).values)
