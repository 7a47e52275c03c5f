"""A converted tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def files(quantized_files: list[Path]) -> list[Path]:
    """The files that the tests of this folder work on."""
    return quantized_files
