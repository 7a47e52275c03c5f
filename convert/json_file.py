"""JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwen35_gguf.errors import CheckpointError


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Return the object in a JSON file; {} if the file is optional and absent.

    Raises:
        CheckpointError: the file is missing, cannot be read, is not JSON, or holds something else than an object.

    """
    if not path.is_file():
        if optional:
            return {}
        raise CheckpointError(f"{path.parent}: no {path.name}; give the directory of a Hugging Face checkpoint")
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected an object; download it again")
    return value


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file. Raises CheckpointError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); download it again") from None
