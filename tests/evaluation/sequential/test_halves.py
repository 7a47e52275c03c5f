"""Every second chunk of a text belongs to its second half, in batches of few tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qwen35_gguf.evaluation.collect_moments import Text
from qwen35_gguf.evaluation.sequential import run as runs
from qwen35_gguf.evaluation.sequential.run import Run


@pytest.mark.unit
@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_every_second_chunk_is_of_the_second_half(monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    monkeypatch.setattr(runs, "BATCH", 6)
    others: dict[str, Any] = dict.fromkeys(("header", "originals", "types", "effects", "provenance", "before"))
    run = Run(**others, text=Text([], 4, chunks, "text"), threads=1)
    found = list(run.halves())
    assert max(len(own) for _, own in found) <= 6
    tokens = [(half, int(token)) for half, own in found for token in own]
    assert sorted(tokens) == sorted((token // 4 % 2, token) for token in range(4 * chunks))
    assert np.concatenate([np.arange(4 * chunks)[own] for own in run.batches()]).tolist() == list(range(4 * chunks))
