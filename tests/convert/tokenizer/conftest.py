"""A small BPE checkpoint, and the tokenizer files of the trained model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oracles.paths import TINY
from qwen35_gguf.convert.tokenizer.pre_tokenizer import FAMILY

Json = dict[str, Any]


def split(pattern: str) -> Json:
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ],
    }


def added(token_id: int, content: str, *, special: bool) -> Json:
    return {"id": token_id, "content": content, "special": special, "normalized": False}


@pytest.fixture
def small_tokenizer() -> Json:
    """A tokenizer.json of four tokens and four added ones."""
    return {
        "added_tokens": [
            added(4, "<|im_end|>", special=False),
            added(5, "<think>", special=False),
            added(6, "[X]", special=True),
            added(7, "[Y]", special=False),
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": split(FAMILY),
        "post_processor": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3}, "merges": [["a", "b"]]},
    }


@pytest.fixture
def write(tmp_path: Path, small_tokenizer: Json) -> Callable[..., Path]:
    """A function that writes a small BPE checkpoint; keywords are the files' contents, by stem; None leaves one out."""

    def write_files(**files: object) -> Path:
        for stem, content in ({"tokenizer": small_tokenizer} | files).items():
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content)
                (tmp_path / f"{stem}.json").write_text(text, encoding="utf-8")
        return tmp_path

    return write_files


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Path]:
    """A function that copies the tokenizer files of the trained model; keywords are changes of files, by stem.

    A change is a function that takes the content of a file ({} for an absent one) and changes it in place, or None to
    leave the file out.
    """

    def copy(**changes: Callable[[Json], object] | None) -> Path:
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
            shutil.copy(TINY / name, tmp_path)
        for stem, change in changes.items():
            path = tmp_path / f"{stem}.json"
            if change is None:
                path.unlink()
                continue
            content = json.loads(path.read_text()) if path.exists() else {}
            change(content)
            path.write_text(json.dumps(content))
        return tmp_path

    return copy
