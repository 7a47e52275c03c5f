"""A loaded tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen35_gguf.runtime import Qwen35


@pytest.fixture(scope="module")
def shared(files: list[Path]) -> Iterator[Qwen35]:
    """A model for tests that leave it as it is; drafting, so that they meet drafts, too."""
    with Qwen35(files[0], n_ctx=2048, n_threads=1, draft=2) as loaded:
        yield loaded
