"""Every key of every file of a checkpoint with a value of every type: converted, or one line and exit code 2.

The fast suite tries a sample, the slow one everything.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from inputs.json_damage import VALUES, paths, replaced
from qwen35_gguf import cli
from qwen35_gguf.convert.plan_files import ConversionOptions, plan_conversion
from qwen35_gguf.errors import Qwen35Error

pytestmark = pytest.mark.unit

HEADER = "model-00002-of-00002.safetensors"
CARD = "README.md"
# What the generated checkpoint lacks: files and entries of older saves.
EXTRA: dict[str, Any] = {
    "special_tokens_map.json": {"eos_token": {"content": "<|im_end|>"}, "additional_special_tokens": ["<|im_start|>"]},
    "added_tokens.json": {"<|im_end|>": 301},
    "chat_template.json": {"chat_template": "{{ messages }}"},
    "processor_config.json": {"image_processor": {"image_mean": [0.5, 0.5, 0.5]}, "processor_class": "x"},
}
MORE: dict[str, dict[str, Any]] = {
    "config.json": {"transformers_weights": "model.safetensors.index.json", "torch_dtype": "bfloat16"},
    "tokenizer_config.json": {"chat_template": [{"name": "default", "template": "x"}], "bos_token": None},
    "generation_config.json": {"repetition_penalty": 1.0, "min_p": 0.0},
}
FRONT = {
    "license": "apache-2.0",
    "language": ["en", "no"],
    "tags": ["a"],
    "base_model": ["Qwen/Qwen3.5-4B"],
    "datasets": ["a/b"],
    "name": "My Model",
    "version": "v1",
    "pipeline_tag": "x",
}


@pytest.fixture(scope="module")
def whole(make_checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with every file that is read."""
    directory = tmp_path_factory.mktemp("damaged") / "whole"
    make_checkpoint.make_checkpoint(directory, make_checkpoint.build_spec(vocab=300), shards=2)
    for name, content in EXTRA.items():
        (directory / name).write_text(json.dumps(content))
    for name, entries in MORE.items():
        content = json.loads((directory / name).read_text())
        if name == "config.json":
            scaling = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e7, "attention_factor": 1.0, "mscale": 1.0}
            content["text_config"]["rope_scaling"] = scaling
        (directory / name).write_text(json.dumps(content | entries))
    return directory


def contents(directory: Path) -> dict[str, Any]:
    """The parsed files by name, a header of safetensors and the front matter of the card among them."""
    found = {path.name: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}
    raw = (directory / HEADER).read_bytes()
    return found | {HEADER: json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]), CARD: FRONT}


def write(directory: Path, name: str, content: Any) -> None:
    path = directory / name
    if name == CARD:
        path.write_text(f"---\n{yaml.safe_dump(content)}---\n# A model\n")
    elif name == HEADER:
        raw = path.read_bytes()
        header = json.dumps(content).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + int.from_bytes(raw[:8], "little") :])
    else:
        path.write_text(json.dumps(content))


def damages(files: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, ...], str]]:
    for name, content in files.items():
        for path in paths(content):
            for kind in VALUES:
                if (name, kind) != (CARD, "a deep list"):
                    yield name, path, kind


def trial(source: Path, directory: Path, name: str, content: Any) -> str:
    """Plan the conversion of a checkpoint with one damaged file; return the error's message, or nothing."""
    if not directory.exists():
        shutil.copytree(source, directory)
    before = (directory / name).read_bytes()
    write(directory, name, content)
    try:
        plan_conversion(ConversionOptions(directory, "Q8_0", directory.parent / "out"))
    except Qwen35Error as error:
        return str(error)
    finally:
        (directory / name).write_bytes(before)
    return ""


def try_all(source: Path, folder: Path, chosen: list[tuple[str, tuple[Any, ...], str]]) -> None:
    files = contents(source)
    refused = 0
    for name, path, kind in chosen:
        message = trial(source, folder / "model", name, replaced(files[name], path, VALUES[kind]))
        where = f"{name}: {path} is {kind}: {message!r}"
        assert "\n" not in message, where
        assert len(message) < 1000, where
        assert not message or ".json" in message or ".safetensors" in message or str(folder) in message, where
        refused += bool(message)
    assert refused > len(chosen) // 20
    assert not (folder / "out").exists()


def test_the_undamaged_checkpoint_converts(whole: Path, tmp_path: Path) -> None:
    for name, content in contents(whole).items():
        assert not trial(whole, tmp_path / "model", name, content)


def test_a_sample_of_damages_is_one_line_each(whole: Path, tmp_path: Path) -> None:
    every = list(damages(contents(whole)))
    assert len(every) > 5000
    try_all(whole, tmp_path, random.Random(20).sample(every, 120))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_every_damage_is_one_line(whole: Path, tmp_path: Path, part: int) -> None:
    try_all(whole, tmp_path, list(damages(contents(whole)))[part::8])


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("config.json", ("text_config", "layer_types"), -1),
        ("config.json", ("architectures", 0), {}),
        ("config.json", ("text_config",), -1),
        ("tokenizer_config.json", ("added_tokens_decoder",), float("nan")),
        ("generation_config.json", ("temperature",), "warm"),
        ("preprocessor_config.json", ("image_mean", 0), None),
    ],
)
def test_the_line_names_file_and_key_with_exit_code_2(
    whole: Path, tmp_path: Path, name: str, path: tuple[Any, ...], value: Any
) -> None:
    directory = Path(shutil.copytree(whole, tmp_path / "model"))
    if name == "preprocessor_config.json":
        (directory / "processor_config.json").unlink()
    write(directory, name, replaced(contents(whole)[name], path, value))
    result = CliRunner().invoke(cli.main, ["convert", str(directory), "-o", str(tmp_path / "out")])
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    assert result.exit_code == 2, result.output
    assert f"{name}: {key} is " in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


# Files that others of this checkpoint make superfluous.
UNREAD = {
    "added_tokens.json",
    "chat_template.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "video_preprocessor_config.json",
}
CONTENTS = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "Latin-1": b'{"a": "\xe9"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "nested too deep": b'{"a":' * 50_000,
    "a key twice": b'{"a": 1, "a": 2}',
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_every_file_that_cannot_be_parsed_is_one_line(whole: Path, tmp_path: Path, content: bytes) -> None:
    directory = Path(shutil.copytree(whole, tmp_path / "model"))
    for path in sorted(directory.glob("*.json")):
        before = path.read_bytes()
        path.write_bytes(content)
        message = ""
        try:
            plan_conversion(ConversionOptions(directory, "Q8_0", tmp_path / "out"))
        except Qwen35Error as error:
            message = str(error)
        path.write_bytes(before)
        assert "\n" not in message
        assert path.name in message or path.name in UNREAD, path
