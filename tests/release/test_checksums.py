"""SHA256SUMS against GNU sha256sum."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from qwen35_gguf.commands.files import checksum
from qwen35_gguf.errors import ChecksumError
from qwen35_gguf.release import checksums

pytestmark = pytest.mark.unit

FILES = {"a.gguf": b"a" * 9_000_000, "b c.gguf": b"", "sub/ü.txt": b"text\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "release" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for ignored in (".cache/x", "half.gguf.part"):
        path = tmp_path / "release" / ignored
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"ignored")
    return tmp_path / "release"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs GNU coreutils")
def test_gnu_checks_our_list_and_we_check_theirs(folder: Path) -> None:
    checksums.write(folder, jobs=2)
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = subprocess.run(["sha256sum", *FILES], cwd=folder, capture_output=True, check=True).stdout
    assert sorted((folder / "SHA256SUMS").read_bytes().splitlines()) == sorted(theirs.splitlines())
    (folder / "SHA256SUMS").write_bytes(
        subprocess.run(["sha256sum", "-b", *FILES], cwd=folder, capture_output=True, check=True).stdout
    )
    assert [verdict.problem for verdict in checksums.verify(folder)] == ["", "", ""]


def test_what_changed_is_named(folder: Path) -> None:
    advanced = 0

    def advance(count: int) -> None:
        nonlocal advanced
        advanced += count

    checksums.write(folder, advance=advance)
    assert advanced == sum(map(len, FILES.values()))
    (folder / "a.gguf").write_bytes(FILES["a.gguf"][:-1] + b"b")
    (folder / "b c.gguf").unlink()
    verdicts = {verdict.name: verdict.problem for verdict in checksums.verify(folder)}
    assert verdicts == {"a.gguf": "differs; download it again", "b c.gguf": "is missing", "sub/ü.txt": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc  a.gguf\n", "line 1 is not a checksum"),
        (b"\xff\xfe", "cannot be read"),
        (f"{hashlib.sha256().hexdigest()}  ../a\n".encode(), "outside of the folder"),
        (f"{hashlib.sha256().hexdigest()}  /etc/passwd\n".encode(), "outside of the folder"),
        (f"{hashlib.sha256().hexdigest()}  /{'x' * 3000}\n".encode(), r"x\.\.\., outside of the folder"),
    ],
)
def test_a_damaged_list_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "SHA256SUMS").write_bytes(content)
    with pytest.raises(ChecksumError, match=message):
        checksums.verify(folder)


def test_line_ends_of_windows(folder: Path) -> None:
    listed = checksums.write(folder)
    listed.write_bytes(listed.read_bytes().replace(b"\n", b"\r\n"))
    assert not any(verdict.problem for verdict in checksums.verify(folder))


def test_command(folder: Path) -> None:
    run = CliRunner().invoke
    missing = run(checksum.command, [str(folder)])
    assert (missing.exit_code, len(missing.stderr.splitlines())) == (2, 1)
    assert run(checksum.command, [str(folder), "--write"]).exit_code == 0
    good = run(checksum.command, [str(folder)])
    assert (good.exit_code, good.stdout) == (0, "a.gguf: OK\nb c.gguf: OK\nsub/ü.txt: OK\n")
    (folder / "new.txt").write_text("x")
    (folder / "a.gguf").write_text("x")
    bad = run(checksum.command, [str(folder), "--jobs", "1"])
    assert bad.exit_code == 1
    assert "a.gguf: differs" in bad.stdout
    assert "new.txt is not in SHA256SUMS" in bad.stderr
    assert run(checksum.command, [str(folder / "absent")]).exit_code == 2


def test_two_checksums_of_one_file(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  a.gguf\n{'1' * 64}  a.gguf\n")
    with pytest.raises(ChecksumError, match=r"two checksums of a\.gguf"):
        checksums.verify(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_list_that_does_not_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "SHA256SUMS"
    os.mkfifo(path)
    with pytest.raises(ChecksumError, match="is not a file"):
        checksums.verify(folder)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ChecksumError, match="is not a file"):
        checksums.verify(folder)
    path.unlink()
    path.write_bytes(b"x" * 100)
    monkeypatch.setattr(checksums, "LARGEST_LIST", 99)
    with pytest.raises(ChecksumError, match="is larger than"):
        checksums.verify(folder)
