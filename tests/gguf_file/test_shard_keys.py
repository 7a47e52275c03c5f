"""Keys and names of shards as others may write them: one line, whatever their type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFValueType, GGUFWriter

from qwen35_gguf.errors import GgufError
from qwen35_gguf.gguf_file import shards

pytestmark = pytest.mark.unit

RIGHT = {"split.no": 0, "split.tensors.count": 1, "split.count": 1}
WRONG = [
    ("x", GGUFValueType.STRING),
    ([1, 1], GGUFValueType.ARRAY),
    (-1, GGUFValueType.INT32),
    (1.5, GGUFValueType.FLOAT32),
    (float("nan"), GGUFValueType.FLOAT64),
    (True, GGUFValueType.BOOL),
    ((1 << 64) - 1, GGUFValueType.UINT64),
]


def write(path: Path, **keys: tuple[Any, GGUFValueType]) -> Path:
    """Write a file of one tensor by gguf's own writer."""
    writer = GGUFWriter(path, "qwen35")
    for key, value in RIGHT.items():
        writer.add_key_value(key, *keys.get(key, (value, GGUFValueType.UINT16)))
    writer.add_tensor("a", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("key", RIGHT)
@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("name", ["a.gguf", "a-00001-of-00001.gguf"])
def test_a_key_of_another_type(tmp_path: Path, key: str, wrong: tuple[Any, GGUFValueType], name: str) -> None:
    path = write(tmp_path / name, **{key: wrong})
    for work in (
        lambda: shards.read_set(path),
        lambda: shards.merge(path, tmp_path / "whole.gguf"),
        lambda: shards.split(path, tmp_path / "parts", 1 << 20),
    ):
        with pytest.raises(GgufError, match=r"^[^\n]{1,400}; [^\n]+$"):
            work()
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a-00000-of-00000.gguf", "a-00001-of-00000.gguf", "a-00000-of-00001.gguf"])
def test_a_name_with_a_number_that_no_shard_has(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    with pytest.raises(GgufError, match=r"; "):
        shards.read_set(path)
    with pytest.raises(GgufError, match=r"; "):
        shards.merge(path, tmp_path / "whole.gguf")
