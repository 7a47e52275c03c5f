"""A change of a header in place is made or not, and one that is interrupted is finished later."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGMLQuantizationType

from qwen35_gguf import cli
from qwen35_gguf.errors import GgufError, OutputError
from qwen35_gguf.gguf_file import header_change
from qwen35_gguf.gguf_file.header import TensorInfo
from qwen35_gguf.gguf_file.keyvalue import STRING, KeyValue
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.gguf_file.writer import write_gguf

pytestmark = pytest.mark.unit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.gguf"
    tensor = TensorInfo("t", (4,), GGMLQuantizationType.F32)
    write_gguf(path, [KeyValue.of("general.name", "before", STRING)], [(tensor, np.ones(4, np.float32))])
    return path


def changed(file: Path) -> bytes:
    return file.read_bytes()[: read_header(file).data_start].replace(b"before", b"after!")


def break_writes(monkeypatch: pytest.MonkeyPatch, after: int, *, lasting: bool) -> None:
    """Let the second write of a header fail, once or from then on; the first writes some bytes."""
    calls: list[int] = []
    real = os.write

    def write(file: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(file, data[:after])
        if lasting or len(calls) == 2:
            raise OSError(5, "Input/output error")
        return real(file, data)

    monkeypatch.setattr(os, "write", write)


def test_a_failed_write_restores_the_old_header(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, header = file.read_bytes(), changed(file)
    break_writes(monkeypatch, 3, lasting=False)
    with pytest.raises(OutputError, match=r"a\.gguf: cannot be written"):
        header_change.replace(file, header)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["a.gguf"]


def test_a_change_that_is_half_written_is_finished_by_the_next_command(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, header = file.read_bytes(), changed(file)
    with monkeypatch.context() as patch:
        break_writes(patch, 3, lasting=True)
        with pytest.raises(OutputError, match="is half-written"):
            header_change.replace(file, header)
    assert file.read_bytes() != before
    with pytest.raises(GgufError, match=r"was interrupted; `qwen35 metadata a\.gguf` finishes it"):
        read_header(file)
    result = CliRunner().invoke(cli.main, ["metadata", str(file), "get", "general.name"])
    assert (result.exit_code, result.stdout) == (0, "after!")
    assert "is finished now" in result.stderr
    assert file.read_bytes() == header + before[len(header) :]
    assert not header_change.finish(file)


def test_a_damaged_journal_is_not_used(file: Path) -> None:
    before = file.read_bytes()
    header_change.journal_of(file).write_bytes(b"qwen35 header 1\n" + bytes(60))
    with pytest.raises(GgufError, match="is damaged"):
        header_change.finish(file)
    assert file.read_bytes() == before
