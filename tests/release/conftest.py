"""A converted tiny model and its vision tower, made once; treat them as read-only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oracles.converter import stock_convert, stock_tree
from qwen35_gguf.convert import hf_to_gguf

__all__ = ["files", "stock_convert", "stock_tree"]


@pytest.fixture(scope="session")
def files(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The text model with an MTP head in Q4_K_M, and the mmproj in BF16."""
    return hf_to_gguf.convert(checkpoint(tied=False), "Q4_K_M", tmp_path_factory.mktemp("release"))
