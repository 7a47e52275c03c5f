"""What type checkers and `help` see of the Python API."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oracles.paths import ROOT
from qwen35_gguf.runtime.options import GenerateOptions, LoadOptions

EXAMPLE = ROOT / "examples" / "typed_app.py"

QUESTIONS = """
from qwen35_gguf.runtime import Qwen35
with Qwen35("a.gguf", n_ctx="32k") as model:
    reveal_type(model)
    reveal_type(model.chat([]))
    reveal_type(model.chat([], stream=True))
    reveal_type(model.chat([], stream=bool(1)))
    reveal_type(model.chat([], response_format=int).parsed)
    model.chat([], max_tokens="5")
    model.chat([], temprature=1)
    Qwen35("a.gguf", n_threads="2")
"""


def mypy(path: Path, folder: Path) -> str:
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports",
        "silent",
        "--cache-dir",
        str(folder / "cache"),
        str(path),
    ]
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": ""}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment).stdout


@pytest.mark.slow
def test_the_example_passes_strict_checks_and_mistakes_do_not(tmp_path: Path) -> None:
    assert "Success: no issues found in 1 source file" in mypy(EXAMPLE, tmp_path)
    (tmp_path / "questions.py").write_text(QUESTIONS)
    found = mypy(tmp_path / "questions.py", tmp_path)
    revealed = [line.partition('"')[2].rstrip('"') for line in found.splitlines() if "Revealed type is" in line]
    assert [name.replace("qwen35_gguf.runtime.", "") for name in revealed] == [
        "model.Qwen35",
        "chat.openai_types.ChatCompletion",
        "stream.Stream[chat.openai_types.ChatCompletionChunk]",
        "chat.openai_types.ChatCompletion | stream.Stream[chat.openai_types.ChatCompletionChunk]",
        "int | None",
    ]
    wrong = {line.split(":")[1] for line in found.splitlines() if ": error:" in line}
    assert sorted(wrong, key=int) == ["9", "10", "11"]


def test_the_example_runs(files: list[Path]) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE), str(files[0])], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) >= 3


def test_signatures_show_the_options() -> None:
    from qwen35_gguf.runtime import Qwen35

    for function, options in ((Qwen35.__init__, LoadOptions), (Qwen35.chat, GenerateOptions)):
        shown = inspect.signature(function).parameters
        assert {field.name for field in dataclasses.fields(options)} <= set(shown)
        assert "keywords" not in shown
    assert "thinking" not in inspect.signature(Qwen35.generate).parameters
