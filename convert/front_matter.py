"""The front matter of a checkpoint's README.md: name, license, languages and so on, as texts.

People write it by hand, in YAML, where `no` (Norwegian) is false and a version is a number. What has a meaning as a
text becomes one, everything else is left out: it describes the model, and never decides about a tensor.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from gguf import Metadata

from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.json_file import LARGEST_COUNT

# Entries that may be lists; of any other entry a list becomes one text.
LISTS = frozenset({"tags", "pipeline_tag", "language", "languages", "datasets", "dataset", "base_model", "base_models"})
LISTS |= frozenset({"base_model_sources", "model_sources", "dataset_sources"})


def read_front_matter(directory: Path) -> dict[str, Any]:
    """Return the entries whose values are texts or lists of texts; none without a README.md.

    Raises:
        CheckpointError: it is not YAML, or not UTF-8.

    """
    path = directory / "README.md"
    try:
        card = Metadata.load_model_card(directory)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: the front matter cannot be read ({reason}); fix or remove it") from None
    if not isinstance(card, dict):
        return {}
    read = {str(key): _readable(str(key), value) for key, value in card.items()}
    return {key: value for key, value in read.items() if value}


def _readable(key: str, value: Any) -> str | list[str] | None:
    if isinstance(value, list):
        texts = [text for item in value if (text := _text(key, item))]
        return texts if key in LISTS else ", ".join(texts)
    return _text(key, value)


def _text(key: str, value: Any) -> str | None:
    if isinstance(value, bool):
        return "no" if key.startswith("language") and not value else None
    if isinstance(value, int):
        return str(value) if abs(value) <= LARGEST_COUNT else None  # Python writes numbers of 4,300 digits at most
    if isinstance(value, float) and math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode()
    return None
