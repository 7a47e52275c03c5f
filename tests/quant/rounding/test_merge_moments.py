"""Sums of moments that a file cannot hold are refused, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwen35_gguf.errors import MomentsError
from qwen35_gguf.quant.rounding import merge_moments, moments

pytestmark = pytest.mark.unit


def one_input(path: Path, chunks: int = 1, scale: float = 1.0) -> moments.Moments:
    sums = np.eye(4, dtype=np.float32)[None] * np.float32(scale)
    entry = moments.Entry("blk.0.ffn_gate.weight", sums, np.ones((1, 4)), np.ones(1))
    moments.write(path, moments.Provenance("full", "f", "t", ("a",), chunks), {entry.name: (sums.shape, 4)}, [entry])
    return moments.read(path)


def test_sums_and_chunks_add_up(tmp_path: Path) -> None:
    found = one_input(tmp_path / "a.gguf", 3, 2.0)
    merge_moments.join([found, found, found], tmp_path / "joined.gguf")
    joined = moments.read(tmp_path / "joined.gguf")
    assert joined.provenance.chunks == 9
    assert (joined.sums("blk.0.ffn_gate.weight") == 6 * np.eye(4)).all()
    assert (joined.counts("blk.0.ffn_gate.weight") == 3).all()


@pytest.mark.parametrize(("chunks", "scale"), [((1 << 31), 1.0), (1, 3e38)])
def test_more_than_a_file_can_hold(tmp_path: Path, chunks: int, scale: float) -> None:
    found = one_input(tmp_path / "a.gguf", chunks, scale)
    with pytest.raises(MomentsError, match="larger than a file can hold"):
        merge_moments.join([found, found], tmp_path / "joined.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
