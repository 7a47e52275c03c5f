"""A converted tiny model, and the stock converter."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles.converter import stock_convert, stock_tree

__all__ = ["files", "stock_convert", "stock_tree"]


@pytest.fixture(scope="session")
def files(quantized_files: list[Path]) -> list[Path]:
    """The files that the tests of this folder work on."""
    return quantized_files
