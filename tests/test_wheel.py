"""What an sdist and the wheel built from it contain, and what a type checker sees of the installed package."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from oracles.paths import ROOT

pytestmark = pytest.mark.slow

PROGRAM = """
from collections.abc import Iterator
from pathlib import Path

import qwen35_gguf
from qwen35_gguf import ChatCompletionChunk, MediaLimits, Qwen35, Qwen35Error, VideoLimits


LIMITS = (MediaLimits(), VideoLimits())


def answer(file: Path) -> str:
    try:
        with Qwen35(file) as model:
            chunks: Iterator[ChatCompletionChunk] = model.chat([{"role": "user", "content": "Hi"}], stream=True)
            for chunk in chunks:
                reveal_type(chunk.choices[0].delta.content)
            reveal_type(model.chat([{"role": "user", "content": "Hi"}]).choices[0].message.content)
            return model.generate("Hi").text
    except Qwen35Error as error:
        return str(error)


qwen35_gguf.no_such_name
reveal_type(qwen35_gguf.__version__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from the sdist, as an index would serve them."""
    folder = tmp_path_factory.mktemp("built")
    run("-m", "build", "--outdir", folder, ROOT)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def run(*arguments: str | Path, check: bool = True) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return {name for name in listed if name and not (ROOT / name).is_symlink()}


def test_the_wheel_holds_every_module_once_and_nothing_else(built: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(built[1]).namelist()
    assert len(names) == len(set(names))
    modules = {name for name in names if name.endswith(".py")}
    top = {f"qwen35_gguf/{name}" for name in tracked("convert", "quant", "runtime", "ggml_ops")}
    assert modules == {name for name in tracked("qwen35_gguf") | top if name.endswith(".py")}
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"qwen35_gguf"}
    assert "qwen35_gguf/py.typed" in names
    assert [name for name in names if name.endswith((".so", ".pyd"))] != []


def test_the_sdist_holds_what_a_build_needs_and_no_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
    sources = tracked("convert", "quant", "runtime", "ggml_ops", "qwen35_gguf", "CMakeLists.txt", "pyproject.toml")
    assert sources <= names
    assert [name for name in names if name.startswith(("tests/", "bench/", "models/"))] == []


def test_mypy_sees_the_types_of_the_installed_package(built: tuple[Path, Path], tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, system_site_packages=False)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    run("-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", built[1])
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    options = ["--strict", "--ignore-missing-imports", "--python-executable", str(python)]
    output = run("-m", "mypy", *options, f"--cache-dir={tmp_path / 'cache'}", program, check=False)
    found = [line.partition("program.py:")[2].partition(" ")[2] for line in output.splitlines()]
    assert found[:4] == [
        'note: Revealed type is "str | None"',
        'note: Revealed type is "str | None"',
        'error: Module has no attribute "no_such_name"  [attr-defined]',
        'note: Revealed type is "str"',
    ], output
