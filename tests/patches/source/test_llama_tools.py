"""A checkout of llama.cpp gets all patches or stays as it is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import llama_tools
import sdist


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout that has files where llama.cpp has them, with other contents."""
    folder = tmp_path / "llama.cpp"
    for mark in llama_tools.MARKS:
        (folder / mark).parent.mkdir(parents=True, exist_ok=True)
        (folder / mark).write_text("something else\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "start")
    return folder


def change(folder: Path) -> None:
    (folder / "include" / "llama.h").write_text("changed\n")


def remove_a_file(folder: Path) -> None:
    (folder / "include" / "llama.h").unlink()


def patch_before(folder: Path) -> None:
    (folder / "ggml" / "src" / "ggml_ops").mkdir()


def make_it_a_part(folder: Path) -> None:
    (folder / ".git").rename(folder.parent / ".git")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change, "has changes that are not committed"),
        (remove_a_file, "is not a checkout of llama.cpp"),
        (patch_before, "has ggml_ops already"),
        (make_it_a_part, "is not the top of a git checkout"),
        (lambda _: None, "the patches do not apply"),
    ],
)
def test_a_tree_that_is_dirty_or_foreign_is_refused_in_one_line_and_not_changed(
    checkout: Path, damage: Callable[[Path], None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(checkout)
    before = sorted((path, path.stat().st_mtime_ns) for path in checkout.rglob("*") if ".git" not in path.parts)
    with pytest.raises(SystemExit) as stopped:
        llama_tools.patch_checkout(checkout)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    after = sorted((path, path.stat().st_mtime_ns) for path in checkout.rglob("*") if ".git" not in path.parts)
    assert after == before


@pytest.mark.slow
def test_a_clean_checkout_gets_the_kernels_and_the_patches(tmp_path: Path) -> None:
    sdist.unpack(sdist.fetch_sdist(), tmp_path)
    checkout = tmp_path / "llama.cpp"
    (tmp_path / sdist.NAME / llama_tools.INSIDE).rename(checkout)
    (checkout / ".git").unlink(missing_ok=True)  # of a submodule
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "start")
    llama_tools.patch_checkout(checkout)
    changed = git(checkout, "status", "--porcelain").splitlines()
    assert "?? ggml/src/ggml_ops/" in changed
    assert " M ggml/src/ggml-cpu/ggml-cpu.c" in changed
    with pytest.raises(SystemExit):
        llama_tools.patch_checkout(checkout)
    git(checkout, "checkout", ".")
    git(checkout, "clean", "-fdq")
    llama_tools.patch_checkout(checkout)
