"""The Hub client against a real HTTP server on localhost that stands in for the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracles.hub.downloads import COMMIT, own_cache, point_to, serve_downloads, unreachable
from qwen35_gguf.convert import hub
from qwen35_gguf.convert.source_tensors.parts import Parts
from qwen35_gguf.errors import CheckpointError

pytestmark = pytest.mark.unit

SHARDS = {
    "model.language_model.norm.weight": "qwen-1.safetensors",
    "_orig_mod.mtp.fc.weight": "mtp-head.safetensors",
    "model.visual.pos_embed.weight": "vision [1].safetensors",
}
INDEXED = {
    "config.json": b'{"vision_config": {}}',
    "model.safetensors.index.json": json.dumps({"weight_map": SHARDS}).encode(),
    "consolidated.safetensors": b"the same weights again",
    **dict.fromkeys(SHARDS.values(), b"weights"),
}
TEXT_CONFIG = {"config.json": b'{"architectures": ["Qwen3_5ForCausalLM"]}'}
FILES: dict[str, dict[str, bytes]] = {
    "org/tiny": {
        "config.json": b"{}",
        "model.safetensors": b"weights",
        "consolidated.safetensors": b"the same weights again",
        "additional_chat_templates/tools.jinja": b"{{ tools }}",
        "chat_template.jinja": b"{{ messages }}",
        "image.png": b"not wanted",
    },
    "org/indexed": INDEXED,
    "org/text": INDEXED | TEXT_CONFIG,
    "org/both": INDEXED | {"model.safetensors": b"weights"},
    "org/damaged": INDEXED | {"config.json": b"{"},
    "org/adapter": {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"},
    "org/gguf": {"model-Q4_K_M.gguf": b"GGUF", "README.md": b""},
    "org/odd-names": {"config.json": b"{}", "qwen.safetensors": b"weights"},
}


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache(monkeypatch, str(tmp_path))


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serve_downloads(FILES) as server:
        point_to(monkeypatch, server.address)
        yield server.address


@pytest.mark.usefixtures("fake_hub")
def test_a_hub_id_is_downloaded() -> None:
    directory, repo, commit = hub.resolve("org/tiny", None)
    assert (repo, commit) == ("org/tiny", COMMIT)
    found = {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.*")}
    wanted = FILES["org/tiny"].copy()
    del wanted["image.png"], wanted["consolidated.safetensors"]
    assert found == wanted


def fetched(location: hub.Location) -> set[str]:
    return {path.name for path in location.directory.glob("*.safetensors")}


@pytest.mark.usefixtures("fake_hub")
@pytest.mark.parametrize(
    ("repo", "parts", "left_out"),
    [
        ("org/indexed", Parts(), set()),
        ("org/indexed", Parts(mtp=False), {"mtp-head.safetensors"}),
        ("org/indexed", Parts(vision=False), {"vision [1].safetensors"}),
        ("org/indexed", Parts(text=False, mtp=False), {"mtp-head.safetensors", "qwen-1.safetensors"}),
        ("org/text", Parts(), {"vision [1].safetensors"}),
    ],
)
def test_the_files_of_the_index_are_downloaded_but_for_parts_that_are_left_out(
    repo: str, parts: Parts, left_out: set[str]
) -> None:
    assert fetched(hub.resolve(repo, None, parts)) == set(SHARDS.values()) - left_out


@pytest.mark.usefixtures("fake_hub")
def test_a_part_that_was_left_out_is_downloaded_when_it_is_wanted() -> None:
    assert len(fetched(hub.resolve("org/indexed", None, Parts(mtp=False)))) == 2
    assert fetched(hub.resolve("org/indexed")) == set(SHARDS.values())


@pytest.mark.usefixtures("fake_hub")
def test_one_file_with_all_weights_is_taken_before_an_index() -> None:
    assert fetched(hub.resolve("org/both")) == {"model.safetensors"}


@pytest.mark.usefixtures("fake_hub")
def test_no_weights_are_downloaded_for_a_damaged_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not valid JSON"):
        hub.resolve("org/damaged")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.usefixtures("fake_hub")
def test_a_slash_at_the_end_does_not_matter() -> None:
    assert hub.resolve("org/tiny/") == hub.resolve("org/tiny")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["adapter_config.json"], "is an adapter, not a checkpoint"),
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], "has GGUF files"),
        (["checkpoint-500/config.json", "trainer_state.json"], "its folder checkpoint-500 has"),
        (["tokenizer.json"], "has no config.json; give the directory"),
        ([], "has no config.json; give the directory"),
    ],
)
def test_a_folder_without_config_json_is_told_apart(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / "it" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "it" / name).write_text("{}")
    (tmp_path / "it").mkdir(exist_ok=True)
    with pytest.raises(CheckpointError, match=words):
        hub.resolve(str(tmp_path / "it"))


@pytest.mark.usefixtures("fake_hub")
@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_unusual_names_of_weights_and_a_revision(revision: str) -> None:
    directory, _, commit = hub.resolve("org/odd-names", revision)
    assert commit == COMMIT
    assert (directory / "qwen.safetensors").read_bytes() == b"weights"


@pytest.mark.usefixtures("fake_hub")
@pytest.mark.parametrize(
    ("model", "revision", "words"),
    [
        ("org/gated", None, ["org/gated", "accept the licence", "http://127.0.0.1", "hf auth login", "HF_TOKEN"]),
        ("org/absent", None, ["org/absent", "no such model", "check the spelling", "hf auth login"]),
        ("org/tiny", "v9", ["org/tiny", "no revision v9", "--revision"]),
        ("org/broken", None, ["org/broken", "answers", "418"]),
        ("org/adapter", None, ["org/adapter: is an adapter", "--adapter"]),
        ("org/gguf", None, ["org/gguf: has no config.json"]),
        ("org/a--b", None, ["org/a--b", "not a Hub id"]),
        ("./absent", None, ["./absent", "no such directory"]),
        ("absent", None, ["absent: no such directory", "Qwen/Qwen3.5-9B"]),
        ("/a/b/c", None, ["/a/b/c: no such directory"]),
    ],
)
def test_what_cannot_be_had_is_one_line(model: str, revision: str | None, words: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        hub.resolve(model, revision)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with unreachable() as address:
        point_to(monkeypatch, address)
        with pytest.raises(CheckpointError, match=r"^org/tiny: .*cannot be reached; check the network.*directory$"):
            hub.resolve("org/tiny", None)


def test_what_was_downloaded_is_used_without_the_hub(fake_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _, _ = hub.resolve("org/tiny", None)
    assert fake_hub
    with unreachable() as address:
        point_to(monkeypatch, address)
        assert hub.resolve("org/tiny", None) == (directory, "org/tiny", COMMIT)


def test_a_local_directory_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    (tmp_path / "org" / "tiny" / "config.json").write_text("{}")
    (tmp_path / "org" / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("org/tiny", None) == (Path("org/tiny"), None, None)
    with pytest.raises(CheckpointError, match="--revision main cannot apply"):
        hub.resolve("org/tiny", "main")
    with pytest.raises(CheckpointError, match="is a file; give the directory"):
        hub.resolve("org/file", None)
