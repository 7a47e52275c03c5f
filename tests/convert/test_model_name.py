"""Files and general.* are named by the repository or the folder: nothing twice, no commit's hash, nothing refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from inputs.saved_tensors import edit_json
from qwen35_gguf.cli import main
from qwen35_gguf.convert import hub, model_name
from qwen35_gguf.convert.metadata import output_name
from qwen35_gguf.gguf_file.reader import read_header

pytestmark = pytest.mark.unit

Factory = Callable[..., Path]
HASH = "0123456789abcdef0123456789abcdef01234567"
SIZE = (752_000_000, 752_000_000, 0, 0)

FOLDERS = {
    "08b": "08b-752M",
    "8b": "8b-752M",
    "0.8b": "0.8b",
    "0.8B-instruct": "0.8B-Instruct",
    "08b-chat": "08b-Chat-752M",
    "qwen3.5-0.8b": "qwen3.5-0.8B",
    "Qwen3.5-0.8B": "Qwen3.5-0.8B",
    "Qwen3.5-0.8B-Base": "Qwen3.5-0.8B-Base",
    "Qwen3.5-0.8B-Instruct-bf16": "Qwen3.5-0.8B-Instruct",
    "Qwen3.5 0.8B chat": "Qwen3.5-0.8B-Chat",
    "qwen35_0.8b_ft": "Qwen35_0.8B_Ft",
    "Qwen3___5-0___8B": "Qwen3.5-0.8B",
    "Qwen3.5-9B": "Qwen3.5-752M-9b",
    "my-0.8B-Q4": "my-0.8B",
    "checkpoint-1000": "checkpoint-752M-1000",
    "output": "Output-752M",
    "merged": "Merged-752M",
    "final": "Final-752M",
    "v2": "v2-752M",
    "2024": "2024-752M",
    "my model": "My-Model-752M",
    "模型-0.8B": "模型-0.8B",
    "a:b?c*": "A-B-C-752M",
    "models--org--Tiny-0.8B": "Tiny-0.8B",
    "decade": "Decade-752M",
    "deadbeef": "Deadbeef-752M",
}


@pytest.mark.parametrize(("folder", "expected"), FOLDERS.items())
def test_a_file_is_named_after_the_folder(tmp_path: Path, folder: str, expected: str) -> None:
    (tmp_path / folder).mkdir()
    assert output_name(tmp_path / folder, None, {}, SIZE) == expected


@given(st.text(min_size=1, max_size=300))
def test_any_name_is_a_name_of_a_file(name: str) -> None:
    stem = output_name(Path("/models/some"), name, {}, SIZE)
    assert stem.strip(" .-")
    assert len(stem.encode()) <= model_name.LONGEST_STEM
    assert not set(stem) & set('<>:"/\\|?*\n\0')
    assert not stem.startswith((".", "-"))


@pytest.mark.parametrize("inner", [HASH, "-", "...", f"snapshots/{HASH}", "012345abcdef", f"models/snapshots/{HASH}"])
def test_a_hash_is_not_a_name(tmp_path: Path, inner: str) -> None:
    directory = tmp_path / "Qwen3.5-0.8B" / inner
    directory.mkdir(parents=True)
    expected = "Models-752M" if inner.startswith("models/") else "Qwen3.5-0.8B"
    assert output_name(directory, None, {}, SIZE) == expected


@pytest.mark.parametrize(
    "path",
    [
        PurePosixPath(f"/root/.cache/huggingface/hub/models--Qwen--Qwen3.5-0.8B/snapshots/{HASH}"),
        PureWindowsPath(rf"C:\Users\me\.cache\huggingface\hub\models--Qwen--Qwen3.5-0.8B\snapshots\{HASH}"),
    ],
)
def test_a_snapshot_is_named_after_its_repository(path: PurePosixPath | PureWindowsPath) -> None:
    assert model_name.repository_of(path) == ("Qwen/Qwen3.5-0.8B", HASH)
    assert model_name.named_directory(path).name == "Qwen3.5-0.8B"


@pytest.mark.parametrize(
    ("path", "repository"),
    [
        ("models--gpt2/snapshots/abc", ("gpt2", "abc")),
        ("models--a_b--c.d-e/snapshots/refs-pr-1", ("a_b/c.d-e", "refs-pr-1")),
        ("models--a--b/other/abc", None),
        ("datasets--a--b/snapshots/abc", None),
        ("snapshots/abc", None),
        ("", None),
    ],
)
def test_only_the_cache_s_folders_are_snapshots(path: str, repository: tuple[str, str] | None) -> None:
    assert model_name.repository_of(PurePosixPath("/") / path) == repository


@pytest.mark.parametrize(
    ("hint", "used"),
    [
        ("Qwen/Qwen3.5-0.8B", True),
        ("Qwen3.5-0.8B", True),
        (f"snapshots/{HASH}", False),
        (HASH, False),
        ("./output", False),
        ("../model", False),
        ("/model", False),
        ("~/model", False),
        ("/home/me/models/x", False),
        (r"C:\models\x", False),
        ("output/", False),
        ("", False),
        (5, False),
        (None, False),
    ],
)
def test_name_or_path_counts_if_it_is_a_name(tmp_path: Path, hint: object, used: bool) -> None:
    assert (model_name.usable_hint(hint) is not None) == used
    (tmp_path / "folder").mkdir()
    found = output_name(tmp_path / "folder", None, {"_name_or_path": hint}, SIZE)
    assert found == ("Qwen3.5-0.8B" if used else "Folder-752M")


def cached(source: Path, cache: Path) -> Path:
    """Lay a checkpoint out as the Hub's cache does: links to blobs, and the commit of main."""
    whole = cache / "models--Qwen--Qwen3.5-0.8B"
    snapshot = whole / "snapshots" / HASH
    snapshot.mkdir(parents=True)
    (whole / "refs").mkdir()
    (whole / "blobs").mkdir()
    (whole / "refs" / "main").write_text(HASH)
    for number, path in enumerate(sorted(source.iterdir())):
        blob = Path(shutil.copy(path, whole / "blobs" / f"{number:040x}"))
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    edit_json(snapshot / "config.json", lambda config: config.pop("_name_or_path", None))
    return snapshot


def test_every_way_to_a_snapshot_gives_the_repository_s_name(
    checkpoint: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached(checkpoint(vision=True), tmp_path / "cache")
    (tmp_path / "link to cache").symlink_to(tmp_path / "cache")
    through_link = tmp_path / "link to cache" / snapshot.relative_to(tmp_path / "cache")
    (tmp_path / HASH).symlink_to(snapshot)
    whole = snapshot.parent.parent
    monkeypatch.chdir(snapshot)
    ways = [
        snapshot,
        f"{snapshot}/",
        f"{snapshot}/../{HASH}",
        through_link,
        ".",
        tmp_path / HASH,
        whole,
        whole / "snapshots",
    ]
    for way in ways:
        location = hub.resolve(str(way))
        assert (location.repo, location.commit) == ("Qwen/Qwen3.5-0.8B", HASH), way
        assert (location.directory / "config.json").is_file()
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["convert", str(snapshot), "-q", "Q8_0", "-o", str(out)])
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in out.iterdir())
    assert all(name.startswith(("Qwen3.5-", "mmproj-Qwen3.5-")) for name in names), names
    for path in out.iterdir():
        header = read_header(path)
        assert str(header.value("general.name")).startswith("Qwen3.5")
        assert not any(HASH in str(entry.value) for entry in header.entries if "source" not in entry.key)
    text = next(path for path in out.iterdir() if not path.name.startswith("mmproj"))
    assert read_header(text).value("general.source.url") == f"https://huggingface.co/Qwen/Qwen3.5-0.8B/tree/{HASH}"


def test_a_link_with_a_name_of_its_own_keeps_it(checkpoint: Factory, tmp_path: Path) -> None:
    snapshot = cached(checkpoint(), tmp_path / "cache")
    (tmp_path / "mine").symlink_to(snapshot)
    assert hub.resolve(str(tmp_path / "mine")) == (tmp_path / "mine", None, None)
    assert output_name(tmp_path / "mine", None, {}, SIZE) == "Mine-752M"
