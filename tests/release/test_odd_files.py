"""Pipes, links, folders and devices in place of the files of a release, and files that change: one line, no waiting."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from faults.paths.odd_files import ODD_FILES, unopened_pipe

from oracles.paths import TINY
from qwen35_gguf.cli import main
from qwen35_gguf.errors import ChecksumError, OutputError
from qwen35_gguf.release import checksums, package
from qwen35_gguf.release import state as states

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither pipes nor such names")

STEM = "Tiny-Qwen3.5-6.4M"
MAKE = ("--quants", "Q4_0", "--no-measure", "--license", "mit")
ADD = ("--add", "Q8_0", "--no-measure")
# Files of the release, one that it is to get, and what it may have.
NAMES = ("README.md", "Modelfile", "recipe.json", "SHA256SUMS", "imatrix.gguf",
         f"{STEM}-Q4_0.gguf", f"{STEM}-Q8_0.gguf", f"mmproj-{STEM}-BF16.gguf", states.STATE)  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_line(result: Result) -> str:
    """The message of a command that was refused."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def listing(folder: Path) -> dict[str, tuple[bool, int, int]]:
    found = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: ((folder / name).is_symlink(), stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "release"
    assert run("package", TINY, "-o", folder, *MAKE).exit_code == 0
    return folder


@pytest.fixture
def release(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "release")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "write_files", lambda *_, **__: pytest.fail("work began"))


# ---- in the place of a file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.usefixtures("no_work")
def test_what_is_no_file_is_refused_before_any_work(
    release: Path, name: str, kind: str, force: tuple[str, ...]
) -> None:
    if name == states.STATE and kind.startswith("a link"):
        pytest.skip("a record that is not there is that of a download")
    (release / name).unlink(missing_ok=True)
    ODD_FILES[kind](release / name)
    before = listing(release)
    assert name in one_line(run("package", TINY, "-o", release, *ADD, *force))
    assert listing(release) == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["add", "again", "a download", "verified"])
def test_no_pipe_is_waited_for(release: Path, name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "write_files", lambda *_, **__: pytest.fail("work began"))
    (release / name).unlink(missing_ok=True)
    with unopened_pipe(release / name):
        if how == "verified":
            assert "Traceback" not in run("checksum", release).output
            return
        if how == "a download" and name != states.STATE:
            (release / states.STATE).unlink()
        one_line(run("package", TINY, "-o", release, *(MAKE if how == "again" else ADD)))


@pytest.mark.parametrize("name", ["README.md", f"{STEM}-Q4_0.gguf"])
def test_with_force_a_pipe_in_a_foreign_folder_is_refused_as_well(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with unopened_pipe(folder / name):
        assert "is not a file" in one_line(run("package", TINY, "-o", folder, *MAKE, "--force"))


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"a\xff"), "a\\b", "-a", "\u202eb", "a.gguf\r"])
@pytest.mark.usefixtures("no_work")
def test_odd_names_do_not_belong_there(release: Path, name: str) -> None:
    (release / name).write_text("mine\n")
    assert "does not belong there" in one_line(run("package", TINY, "-o", release, *ADD))
    assert (release / name).read_text() == "mine\n"


@pytest.mark.usefixtures("no_work")
def test_a_shard_of_a_file_that_is_complete_is_foreign(release: Path) -> None:
    shard = release / f"{STEM}-Q4_0-00001-of-00002.gguf"
    shard.write_text("mine\n")
    assert f"has {shard.name}, which this command did not make" in one_line(run("package", TINY, "-o", release, *ADD))
    assert shard.read_text() == "mine\n"


def test_with_force_such_a_shard_is_replaced_by_the_file(release: Path, made: Path) -> None:
    shard = release / f"{STEM}-Q4_0-00001-of-00002.gguf"
    shard.write_text("mine\n")
    result = run("package", TINY, "-o", release, *MAKE, "--force")
    assert result.exit_code == 0, result.output
    assert not shard.exists()
    for name in (f"{STEM}-Q4_0.gguf", "SHA256SUMS"):
        assert (release / name).read_bytes() == (made / name).read_bytes()


def test_links_to_files_are_replaced_and_not_followed(release: Path, tmp_path: Path) -> None:
    """Whoever put a link there may not get another file overwritten."""
    outside = tmp_path / "outside"
    for name in ("recipe.json", "SHA256SUMS"):
        shutil.copy(release / name, outside)
        before = outside.read_bytes()
        (release / name).unlink()
        (release / name).symlink_to(outside)
        assert run("package", TINY, "-o", release, *MAKE).exit_code == 0
        assert outside.read_bytes() == before
        assert not (release / name).is_symlink()


# ---- in the way of a temporary file ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [states.STATE, "SHA256SUMS", "README.md", f"{STEM}-Q8_0.gguf"])
def test_a_link_in_place_of_a_temporary_file_is_not_followed(release: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine\n")
    (release / f"{name}.part").symlink_to(outside)
    result = run("package", TINY, "-o", release, *ADD)
    assert result.exit_code == 2
    assert f"{name}.part: is a link, where a temporary file is written; remove it" in result.stderr.splitlines()[-1]
    assert outside.read_text() == "mine\n"


# ---- checksums ---------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_text_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff")).write_text("a")
    assert "cannot be listed in SHA256SUMS; rename the file" in one_line(run("checksum", tmp_path, "--write"))
    assert not (tmp_path / "SHA256SUMS").exists()


@pytest.mark.parametrize("name", [" a ", "a\u2028b", "\u202eb", "-a", "ü", "*a"])
def test_other_names_are_listed_and_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a")
    checksums.write(tmp_path)
    assert [(one.name, one.problem) for one in checksums.verify(tmp_path)] == [(name, "")]


def test_what_is_no_file_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    for number, make in enumerate(ODD_FILES.values()):
        make(tmp_path / f"odd-{number}")
    with unopened_pipe(tmp_path / "pipe"):
        checksums.write(tmp_path)
    assert sorted(checksums.read_list(tmp_path)) == ["a", "odd-0/a"]


def test_an_empty_file_has_the_known_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert checksums.digest(tmp_path / "a") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("change", [-10_000, 1, 10_000])
def test_a_file_that_changes_while_it_is_read_has_no_digest(
    tmp_path: Path, change: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each part that is read its writer has added as much, so that there would be no end."""
    monkeypatch.setattr(checksums, "PIECE", 10_000)
    path = tmp_path / "a"
    path.write_bytes(bytes(30_000))

    def advance(_: int) -> None:
        os.truncate(path, path.stat().st_size + change)

    with pytest.raises(ChecksumError, match="while it was read, from 30,000 bytes"):
        checksums.digest(path, advance)


def test_a_file_that_vanishes_while_others_are_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    real = checksums.digest

    def vanishing(path: Path, advance: checksums.Advance = lambda _: None) -> str:
        (tmp_path / "b").unlink(missing_ok=True)
        return real(path, advance)

    monkeypatch.setattr(checksums, "digest", vanishing)
    with pytest.raises(ChecksumError, match=r"b: cannot be read \(No such file or directory\)"):
        checksums.write(tmp_path, jobs=1)
    assert not (tmp_path / "SHA256SUMS").exists()


def test_the_list_may_not_be_written_through_a_link(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    (folder / "a").write_text("a")
    outside.write_text("mine\n")
    (folder / "SHA256SUMS").symlink_to(outside)
    with pytest.raises(OutputError, match="exists already"):
        checksums.write(folder)
    checksums.write(folder, force=True)
    assert outside.read_text() == "mine\n"


# ---- GGUF files that become a release ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*ODD_FILES, "empty", "a pipe"])
def test_ggufs_that_are_none(tmp_path: Path, kind: str) -> None:
    path, out = tmp_path / "m-Q4_0.gguf", tmp_path / "out"
    if kind == "a pipe":
        with unopened_pipe(path):
            one_line(run("package", path, "-o", out, "--no-measure"))
    else:
        ODD_FILES.get(kind, Path.touch)(path)
        one_line(run("package", path, "-o", out, "--no-measure"))
    assert not out.exists()


@pytest.mark.parametrize("added", ["", ",", " , ", "Q4_0", "Q8_0,q8_0", "../Q8_0", "x" * 5000, "\u202e", "Q9"])
@pytest.mark.usefixtures("no_work")
def test_odd_quants_are_refused(release: Path, added: str) -> None:
    before = listing(release)
    assert len(one_line(run("package", TINY, "-o", release, "--add", added, "--no-measure"))) < 2000
    assert listing(release) == before


def test_the_digest_of_a_large_file_is_that_of_hashlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "PIECE", 7)
    (tmp_path / "a").write_bytes(bytes(range(256)) * 9)
    assert checksums.digest(tmp_path / "a") == hashlib.sha256(bytes(range(256)) * 9).hexdigest()
