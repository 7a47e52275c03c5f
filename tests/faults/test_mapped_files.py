"""A file that becomes shorter while it is mapped is an error, not the end of the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen35_gguf import Qwen35
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.errors import CheckpointError, GgufError, ModelError
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="where a mapped file cannot be truncated")


def test_a_gguf_file(quantized_files: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(quantized_files[0], tmp_path / "a.gguf"))
    header = read_header(path)
    mapped = map_data(header)
    os.truncate(path, header.data_start)
    with pytest.raises(GgufError, match="changed while it was read"):
        tensor_data(header, header.tensors[-1], mapped)


def test_a_checkpoint(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint(), tmp_path / "model"))
    opened = open_checkpoint(folder)
    name = max(opened.tensors, key=lambda one: opened.tensors[one].stop)
    opened.read(name)
    os.truncate(opened.tensors[name].file, 100)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        opened.read(name)


def test_a_model_that_is_loaded(quantized_files: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(quantized_files[0], tmp_path / "a.gguf"))
    with Qwen35(path, n_ctx=256, n_threads=1, draft=0) as model:
        model.generate("Hello", max_tokens=2)
        os.truncate(path, 1000)
        with pytest.raises(ModelError, match=r"a\.gguf: became shorter while it was in use"):
            model.generate("Another text", max_tokens=2)


def test_a_model_that_is_replaced_stays_as_it_was(quantized_files: list[Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(quantized_files[0], tmp_path / "a.gguf"))
    with Qwen35(path, n_ctx=256, n_threads=1, draft=0) as model:
        before = model.generate("Hello", max_tokens=4, temperature=0).text
        (tmp_path / "b").write_text("another file")
        (tmp_path / "b").replace(path)
        assert model.generate("Hello", max_tokens=4, temperature=0).text == before


TRUNCATED = """
import os, sys, threading, time
from qwen35_gguf import cli
path = sys.argv[1]
threading.Timer(float(sys.argv[2]), os.truncate, (path, 70_000)).start()
cli.main(args=["lint", path], standalone_mode=True)
"""


@pytest.mark.slow
def test_truncation_at_some_moment_of_a_command(quantized_files: list[Path], tmp_path: Path) -> None:
    codes = set()
    for number in range(12):
        path = Path(shutil.copy(quantized_files[0], tmp_path / f"{number}.gguf"))
        done = subprocess.run(
            [sys.executable, "-c", TRUNCATED, str(path), str(number / 20)], capture_output=True, text=True
        )
        codes.add(done.returncode)
        assert "Traceback" not in done.stderr
    assert codes <= {0, 1, 2}
