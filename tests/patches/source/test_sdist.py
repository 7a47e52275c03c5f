"""The source of llama-cpp-python, unpacked by every Python that is supported."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

import sdist

pytestmark = pytest.mark.unit


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "kept.txt").write_text("kept")
    (tmp_path / "other.txt").write_text("left out")
    with tarfile.open(tmp_path / "name.tar.gz", "w:gz") as written:
        written.add(tmp_path / "name", "name")
        written.add(tmp_path / "other.txt", "other.txt")
    return tmp_path / "name.tar.gz"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_asked_for_is_unpacked(archive: Path, tmp_path: Path) -> None:
    sdist.unpack(archive, tmp_path / "all")
    assert names(tmp_path / "all") == ["kept.txt", "other.txt"]
    sdist.unpack(archive, tmp_path / "some", ("name/",))
    assert names(tmp_path / "some") == ["kept.txt"]


def test_a_python_without_filters_unpacks_too(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Debian 12 has Python 3.11.2: tarfile's filters came with 3.11.4.
    original = tarfile.TarFile.extractall

    def extractall(self: tarfile.TarFile, path: Path, members: list[tarfile.TarInfo]) -> None:
        original(self, path, members)

    monkeypatch.delattr(tarfile, "data_filter")
    monkeypatch.setattr(tarfile.TarFile, "extractall", extractall)
    sdist.unpack(archive, tmp_path / "all")
    assert names(tmp_path / "all") == ["kept.txt", "other.txt"]
