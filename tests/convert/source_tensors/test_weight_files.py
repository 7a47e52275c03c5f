"""Which files hold the weights: the files that transformers loads, whatever is beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.source_tensors.parts import ALL
from qwen35_gguf.convert.source_tensors.weight_files import INDEX, SINGLE, find_weight_files
from qwen35_gguf.errors import CheckpointError

Factory = Callable[..., Path]
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def both(checkpoint: Factory, tmp_path: Path) -> Path:
    """A directory with a whole file of one model, and an index with two files of another one."""
    directory = Path(shutil.copytree(checkpoint(shards=2, seed=1), tmp_path / "both"))
    shutil.copy(checkpoint() / SINGLE, directory)
    return directory


def names(directory: Path) -> list[str]:
    return [path.name for path in find_weight_files(directory, config_of(directory), ALL).paths]


def notes(directory: Path) -> list[str]:
    return list(find_weight_files(directory, config_of(directory), ALL).notes)


def config_of(directory: Path) -> dict[str, object]:
    return json.loads((directory / "config.json").read_text())


def write_index(directory: Path, files: dict[str, str], name: str = INDEX) -> None:
    (directory / name).write_text(json.dumps({"weight_map": files}))


def link(directory: Path, *files: str) -> None:
    for name in files:
        (directory / name).write_bytes(b"x")


def remove(directory: Path, *files: str) -> None:
    for name in files:
        (directory / name).unlink()


# What is done to the directory with everything, which files are read then, and what the note names.
CASES: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {
    "everything": (lambda _: None, [SINGLE], [SINGLE, INDEX, FIRST]),
    "an index of absent files": (lambda d: remove(d, FIRST, SECOND), [SINGLE], [SINGLE, INDEX, FIRST]),
    "an index of the whole file": (lambda d: write_index(d, {"a": SINGLE}), [SINGLE], []),
    "an index of other names": (lambda d: write_index(d, {"a": "x.safetensors"}), [SINGLE], [INDEX, "x.safetensors"]),
    "an empty index": (lambda d: write_index(d, {}), [SINGLE], [INDEX]),
    "an index that is damaged": (lambda d: (d / INDEX).write_text("{"), [SINGLE], [INDEX, "is damaged"]),
    "an index that is a list": (lambda d: (d / INDEX).write_text('{"weight_map": []}'), [SINGLE], ["is damaged"]),
    "no index": (lambda d: remove(d, INDEX), [SINGLE], []),
    "no whole file": (lambda d: remove(d, SINGLE), [FIRST, SECOND], []),
    "numbered files alone": (lambda d: remove(d, SINGLE, INDEX), [FIRST, SECOND], [INDEX]),
    "pickled weights beside": (lambda d: link(d, "pytorch_model.bin"), [SINGLE], [INDEX]),
    "an adapter beside": (lambda d: link(d, "adapter_model.safetensors"), [SINGLE], [INDEX]),
    "a copy in fp16 beside": (lambda d: link(d, "model.fp16.safetensors"), [SINGLE], [INDEX]),
}


@pytest.mark.unit
@pytest.mark.parametrize(("change", "files", "words"), CASES.values(), ids=CASES.keys())
def test_which_files_are_read(both: Path, change: Callable[[Path], object], files: list[str], words: list[str]) -> None:
    change(both)
    assert names(both) == files
    assert len(notes(both)) == bool(words)
    assert all(word in notes(both)[0] for word in words)


@pytest.mark.parametrize("case", ["everything", "an index of absent files", "no index", "no whole file"])
def test_transformers_loads_the_same_weights(both: Path, case: str) -> None:
    import torch
    import transformers

    CASES[case][0](both)
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(both, dtype=torch.bfloat16)
    reference = model.model.language_model.norm.weight.detach().float().numpy()
    assert (open_checkpoint(both).read("norm.weight").astype("f4") == reference).all()


@pytest.mark.unit
def test_an_index_of_its_own_name_is_what_config_json_names(both: Path) -> None:
    config = config_of(both)
    (both / SINGLE).rename(both / "other.safetensors")
    assert [
        p.name for p in find_weight_files(both, config | {"transformers_weights": "other.safetensors"}, ALL).paths
    ] == ["other.safetensors"]
    write_index(both, {"a": FIRST}, "other.safetensors.index.json")
    found = find_weight_files(both, config | {"transformers_weights": "other.safetensors.index.json"}, ALL)
    assert [path.name for path in found.paths] == [FIRST]
    for wrong, message in (
        ("../x.safetensors", "points outside"),
        ("none.safetensors", "is absent"),
        (5, "is 5; must"),
    ):
        with pytest.raises(CheckpointError, match=message):
            find_weight_files(both, config | {"transformers_weights": wrong}, ALL)


@pytest.mark.unit
def test_an_index_that_names_pickled_files_says_so(both: Path) -> None:
    remove(both, SINGLE)
    write_index(both, {"a": "pytorch_model-00001-of-00002.bin"})
    with pytest.raises(CheckpointError, match="names pytorch_model-00001-of-00002.bin, which is pickled"):
        names(both)


LEFT: dict[str, tuple[list[str], list[str] | str]] = {
    "nothing": ([], "no \\*.safetensors files; download the weights"),
    "pickled": (["pytorch_model.bin"], "pytorch_model.bin is pickled"),
    "an adapter": (["adapter_model.safetensors"], "adapter_model.safetensors is an adapter, not a model"),
    "a part is missing": ([FIRST], f"{SECOND} is absent, and there is no"),
    "two sets": ([FIRST, SECOND, "model-00003-of-00003.safetensors"], "has parts of 00002 and of 00003 files"),
    "another name": (["weights.safetensors"], ["weights.safetensors"]),
    "another name and copies": (
        ["weights.safetensors", "consolidated.safetensors", "model.fp16.safetensors", "adapter_model.safetensors"],
        ["weights.safetensors"],
    ),
    "only copies": (["consolidated.safetensors", "model.fp16.safetensors"], ["model.fp16.safetensors"]),
    "the original names": (["consolidated.safetensors"], ["consolidated.safetensors"]),
}


@pytest.mark.unit
@pytest.mark.parametrize(("files", "expected"), LEFT.values(), ids=LEFT.keys())
def test_without_an_index_and_a_whole_file(both: Path, files: list[str], expected: list[str] | str) -> None:
    remove(both, SINGLE, INDEX, FIRST, SECOND)
    link(both, *files)
    if isinstance(expected, list):
        assert names(both) == expected
        assert "transformers would not do" in notes(both)[0]
    else:
        with pytest.raises(CheckpointError, match=expected):
            names(both)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": "../model.safetensors"}, "points outside the directory"),
        ({"a": "/etc/passwd"}, "points outside the directory"),
        ({"a": "sub/model.safetensors"}, "points outside the directory"),
        ({"a": "..\\model.safetensors"}, "points outside the directory"),
        ({"a": "C:model.safetensors"}, "points outside the directory"),
        ({"a": ".."}, "points outside the directory"),
        ({"a": ""}, "points outside the directory"),
        ({"a": "../" * 3000}, r"names (\.\./)+\.+, which points outside"),
        ({"norm.weight": "a" * 300}, r"shard a+\.\.\. is named in the index but absent"),
        ({"norm.weight": "a\0b"}, "is named in the index but absent"),
        ({"norm.weight": "\ud800"}, "surrogates not allowed"),
        ({"a": 5}, r"weight_map\.a is 5; must be a text"),
        ({"a": None}, r"weight_map\.a is null; must be a text"),
        ([], r"weight_map is \[\]; must be an object"),
        (None, "weight_map is missing; must be an object"),
    ],
)
def test_a_damaged_index_is_one_line(both: Path, entries: object, message: str) -> None:
    remove(both, SINGLE)
    (both / INDEX).write_text(json.dumps({"weight_map": entries}))
    with pytest.raises(CheckpointError, match=message) as error:
        names(both)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
