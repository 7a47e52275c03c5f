"""Arrays in files have their space before they are written."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from qwen35_gguf.errors import OutputError
from qwen35_gguf.evaluation import file_array

pytestmark = pytest.mark.unit


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems count blocks otherwise")
def test_the_space_is_there_before_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"older")
    made = file_array.new_array(tmp_path / "a", (300, 1000))
    status = (tmp_path / "a").stat()
    assert (status.st_size, 512 * status.st_blocks >= status.st_size) == (1_200_000, True)
    assert not made.any()
    made[299] = 2
    assert np.fromfile(tmp_path / "a", np.float32)[-1000:].tolist() == [2] * 1000


def test_where_space_cannot_be_taken_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(file_array, "PIECE", 1000)
    monkeypatch.setattr(os, "posix_fallocate", unable, raising=False)
    assert file_array.new_array(tmp_path / "a", (3, 333)).shape == (3, 333)
    assert (tmp_path / "a").read_bytes() == bytes(4 * 999)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match="disk full"):
        file_array.new_array(tmp_path / "a", (3, 3))
