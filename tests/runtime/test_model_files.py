"""A model file is identified by its content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from qwen35_gguf.errors import ModelError
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.runtime.model_files import model_identity, read_model

pytestmark = pytest.mark.unit


def test_models_are_told_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    data = np.random.default_rng(0).integers(0, 255, 1 << 20, dtype=np.uint8)
    one.write_bytes(data.tobytes())
    data[-5] ^= 1
    two.write_bytes(data.tobytes())
    assert model_identity(one) != model_identity(two)
    assert model_identity(one) != model_identity(one, kv="q8_0")
    assert model_identity(one) == model_identity(one)


@pytest.fixture
def in_shards(tmp_path: Path) -> list[Path]:
    whole = tmp_path / "whole.gguf"
    writer = GGUFWriter(whole, "qwen35")
    for name in "abc":
        writer.add_tensor(f"{name}.weight", np.zeros((64, 34), np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return shards.split(whole, tmp_path, 3000, prefix="part")


def test_of_shards_all_tensors_are_read(in_shards: list[Path]) -> None:
    assert len(in_shards) > 1
    header = read_model(in_shards[0])
    assert [tensor.name for tensor in header.tensors] == ["a.weight", "b.weight", "c.weight"]
    assert header.path == in_shards[0]


def test_another_than_the_first_shard_is_refused(in_shards: list[Path]) -> None:
    with pytest.raises(ModelError, match=r"part-00002-of-0000\d.gguf: is one shard of \d; name the first, part-00001"):
        read_model(in_shards[1])
    in_shards[1].unlink()
    with pytest.raises(ModelError, match=r"part-00002-of-0000\d.gguf: is missing"):
        read_model(in_shards[0])
