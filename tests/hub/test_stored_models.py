"""What of a cache and a folder is listed, and what is left when some of it is removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oracles.hub.downloads import own_cache, point_to, serve_downloads
from qwen35_gguf.hub.client import cached_file, download, read_repository
from qwen35_gguf.hub.stored_models import StoredModel, in_cache, in_folder, remove

pytestmark = pytest.mark.unit

LONG_AGO = 1_000_000_000


def summary(models: list[StoredModel]) -> list[tuple[str, str, int]]:
    return [(one.name, one.kind, len(one.files)) for one in models]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_header: Path) -> Path:
    own_cache(monkeypatch, str(tmp_path))
    data = long_header.read_bytes()
    of_others = data.replace(b"qwen35", b"llama3", 1)
    repositories = {
        "org/two": {"a-Q8_0.gguf": data, "a-Q4_0.gguf": data + b"other", "README.md": b"about"},
        "org/one": {"b-Q8_0-00001-of-00002.gguf": data, "b-Q8_0-00002-of-00002.gguf": data + b"!", "mtp-b.gguf": data},
        "org/broken": {"c-Q8_0.gguf": b"GGUF"},
        "org/others": {"d-Q8_0.gguf": of_others},
        "org/checkpoint": {"config.json": b"{}"},
    }
    with serve_downloads(repositories) as server:
        point_to(monkeypatch, server.address)
        for repo in repositories:
            download(repo, ["*"])
    return tmp_path / "cache"


@pytest.mark.usefixtures("cache")
def test_models_of_the_family_are_listed() -> None:
    assert summary(in_cache()) == [
        ("org/broken:Q8_0", "damaged", 1),
        ("org/one:mtp-b.gguf", "MTP head", 1),
        ("org/one:Q8_0", "model", 2),
        ("org/two:Q4_0", "model", 1),
        ("org/two:Q8_0", "model", 1),
    ]


def test_without_a_cache_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache(monkeypatch, str(tmp_path))
    assert in_cache() == in_folder(tmp_path / "absent") == []


def test_listing_is_no_use(cache: Path) -> None:
    for path in cache.rglob("blobs/*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    for _ in range(2):
        assert {one.last_use for one in in_cache()} == {LONG_AGO}


def test_one_of_a_repository_is_removed_and_the_rest_stays(cache: Path) -> None:
    one = next(one for one in in_cache() if one.name == "org/two:Q4_0")
    assert remove([one]) == one.size
    assert [name for name, _, _ in summary(in_cache()) if "two" in name] == ["org/two:Q8_0"]
    left = {path.name for path in cache.glob("models--org--two/snapshots/*/*")}
    assert left == {"a-Q8_0.gguf", "README.md"}
    assert len(list(cache.glob("models--org--two/blobs/*"))) == 2


def test_the_last_model_takes_the_repository_with_it(cache: Path) -> None:
    chosen = [one for one in in_cache() if one.repo in ("org/two", "org/one")]
    assert remove(chosen) == sum(one.size for one in chosen)
    assert {path.name for path in cache.glob("models--*")} == {
        "models--org--broken",
        "models--org--others",
        "models--org--checkpoint",
    }


def test_of_what_is_left_the_cache_still_works(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove([one for one in in_cache() if one.name == "org/two:Q4_0"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = read_repository("org/two")
    assert cached_file(repository, "a-Q8_0.gguf")
    assert cached_file(repository, "a-Q4_0.gguf") is None
    assert cache.is_dir()


def test_a_folder_is_listed_with_its_folders_and_cleared(tmp_path: Path, long_header: Path) -> None:
    data = long_header.read_bytes()
    for name in ("a-Q8_0.gguf", "more/b-Q4_0-00001-of-00002.gguf", "more/b-Q4_0-00002-of-00002.gguf", "c.gguf.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found = in_folder(tmp_path)
    assert summary(found) == [
        (str(tmp_path / "a-Q8_0.gguf"), "model", 1),
        (str(tmp_path / "more/b-Q4_0-00001-of-00002.gguf"), "model", 2),
    ]
    assert remove(found[1:]) == 2 * len(data)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["a-Q8_0.gguf", "c.gguf.part"]
