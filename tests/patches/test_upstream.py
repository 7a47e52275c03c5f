"""The series applies to the llama.cpp that is pinned and to a newer one, and both compile with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import llama_tools
import sdist

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake"),
]

SOURCES = (sdist.PINNED, sdist.NEWER)
OPTIONS = ("-DGGML_RPC=ON", *llama_tools.OPTIONS.split(), "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_SERVER=OFF")


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("source", SOURCES, ids=[source.upstream for source in SOURCES])
def test_the_series_applies_and_compiles(source: sdist.Source, tmp_path: Path) -> None:
    sdist.unpack(sdist.fetch_sdist(source), tmp_path)
    checkout = tmp_path / "llama.cpp"
    (tmp_path / source.name / source.folder).rename(checkout)
    (checkout / ".git").unlink(missing_ok=True)  # of a submodule
    run("git", "init", "-q", cwd=checkout)
    run("git", "add", "-A", "-f", cwd=checkout)
    run("git", "-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "-q", "-m", "start", cwd=checkout)
    llama_tools.patch_checkout(checkout)
    run("cmake", "-B", "build", "-DCMAKE_BUILD_TYPE=Release", *OPTIONS, cwd=checkout)
    run("cmake", "--build", "build", "--target", "llama", "--parallel", str(os.cpu_count() or 1), cwd=checkout)


def test_the_page_names_what_is_tried() -> None:
    page = (Path(sdist.__file__).parent / "README.md").read_text(encoding="utf-8")
    for source in SOURCES:
        assert source.upstream in page, source
        assert f"{source.project} {source.version}" in page
