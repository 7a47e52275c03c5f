"""A loaded tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen35_gguf.runtime import Qwen35
from qwen35_gguf.runtime.llama.model import Model


@pytest.fixture(scope="module")
def shared(files: list[Path]) -> Iterator[Qwen35]:
    """A model for tests that leave it as it is; drafting, so that they meet drafts, too."""
    with Qwen35(files[0], n_ctx=2048, n_threads=1, draft=2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def model(files: list[Path]) -> Iterator[Model]:
    """The main model alone, for tests of tokens."""
    with Model(files[0]) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Callable[..., Path]) -> Any:
    """The tokenizer of transformers for the checkpoint that `files` were converted from."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(checkpoint(tied=False))
