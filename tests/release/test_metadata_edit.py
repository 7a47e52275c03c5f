"""Editing metadata, read back by the gguf package and by llama.cpp."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader, GGUFValueType

from oracles import llama
from qwen35_gguf.commands.files import metadata
from qwen35_gguf.errors import GgufError, MetadataError, OutputError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release import metadata_edit

NAME = "general.name"


@pytest.fixture
def file(files: list[Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(files[0], tmp_path / "model.gguf"))


def values(path: Path) -> dict[str, Any]:
    """Everything the gguf package reads, but for what it adds itself."""
    return {
        key: (field.contents(), [kind.name for kind in field.types])
        for key, field in GGUFReader(path).fields.items()
        if not key.startswith("GGUF.")
    }


def tensors(path: Path) -> dict[str, bytes]:
    return {tensor.name: np.asarray(tensor.data).tobytes() for tensor in GGUFReader(path).tensors}


def put(file: Path, key: str, text: str, kind: str | None = None, **options: Any) -> Path:
    entry = metadata_edit.new_entry(read_header(file), key, text, metadata_edit.parse_kind(kind) if kind else None)
    return metadata_edit.change(file, replace=[entry], **options)


def test_every_value_is_decoded_as_the_gguf_package_does(files: list[Path]) -> None:
    for path in files:
        ours = {entry.key: entry.value for entry in read_header(path).entries}
        theirs = {key: value for key, (value, _) in values(path).items()}
        assert ours == theirs


def test_rewriting_nothing_changes_nothing(file: Path, files: list[Path], tmp_path: Path) -> None:
    layout = read_header(file)
    metadata_edit.change(file, replace=list(layout.entries), copy=tmp_path / "copy.gguf")
    assert (tmp_path / "copy.gguf").read_bytes() == files[0].read_bytes()


@pytest.mark.parametrize("text", ["x", "x" * 100, "", "mit Umlaut: äöü 🙂", "x" * 100_000])
def test_a_text_of_any_length(file: Path, files: list[Path], text: str) -> None:
    before = values(file)
    put(file, NAME, text)
    assert values(file) == before | {NAME: (text, ["STRING"])}
    assert tensors(file) == tensors(files[0])


def test_a_value_of_the_same_length_is_patched_in_place(file: Path) -> None:
    before, inode = file.read_bytes(), file.stat().st_ino
    put(file, "tokenizer.ggml.eos_token_id", "7")
    after = file.read_bytes()
    assert file.stat().st_ino == inode
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 4
    assert values(file)["tokenizer.ggml.eos_token_id"] == (7, ["UINT32"])


def test_llama_cpp_reads_the_changed_file(file: Path, files: list[Path]) -> None:
    put(file, "general.description", "one more key, so that everything moves")
    tokens = [1, 2, 3]
    np.testing.assert_array_equal(llama.logits(file, tokens), llama.logits(files[0], tokens))


@pytest.mark.parametrize(
    ("key", "text", "kind", "stored"),
    [
        ("my.flag", "true", "bool", (True, ["BOOL"])),
        ("my.number", "-5", "int32", (-5, ["INT32"])),
        ("my.large", "18446744073709551615", "uint64", (2**64 - 1, ["UINT64"])),
        ("my.float", "0.5", "float32", (0.5, ["FLOAT32"])),
        ("my.list", "[1, 2, 3]", "array[int32]", ([1, 2, 3], ["ARRAY", "INT32"])),
        ("my.texts", '["a", "b"]', "array[string]", (["a", "b"], ["ARRAY", "STRING"])),
        ("my.text", "words", None, ("words", ["STRING"])),
        ("my.text", "5", "string", ("5", ["STRING"])),
        ("general.sampling.top_k", "20", None, (20, ["INT32"])),
        ("tokenizer.ggml.padding_token_id", "3", None, (3, ["UINT32"])),
        ("qwen35.block_count", "9", None, (9, ["UINT32"])),
        ("qwen35.rope.dimension_sections", "[1,2,3,0]", None, ([1, 2, 3, 0], ["ARRAY", "INT32"])),
    ],
)
def test_types(file: Path, key: str, text: str, kind: str | None, stored: Any) -> None:
    put(file, key, text, kind)
    assert values(file)[key] == stored


@pytest.mark.parametrize(
    ("key", "text", "kind", "message"),
    [
        ("qwen35.block_count", "five", None, "is not a valid uint32"),
        ("qwen35.block_count", "-1", None, "is not a valid uint32"),
        ("qwen35.block_count", "4294967296", None, "is not a valid uint32"),
        ("qwen35.block_count", "1.5", None, "is not a valid uint32"),
        ("qwen35.rope.freq_base", "nan", None, "is not a valid float32"),
        ("qwen35.rope.freq_base", "1e99", None, "is not a valid float32"),
        ("my.flag", "1", "bool", "is not a valid bool"),
        ("my.list", "1", "array[int32]", r"is not a valid array\[int32\]"),
        ("my.list", "[[1]]", "array[int32]", r"is not a valid array\[int32\]"),
        ("my.new", "5", None, "set its type with --type"),
        ("my.new", "5", "number", "is not a type"),
        ("split.count", "2", None, "describes the layout"),
        ("general.alignment", "64", None, "describes the layout"),
    ],
)
def test_wrong_values_are_refused_and_the_file_is_untouched(
    file: Path, files: list[Path], key: str, text: str, kind: str | None, message: str
) -> None:
    with pytest.raises(MetadataError, match=message):
        put(file, key, text, kind)
    assert file.read_bytes() == files[0].read_bytes()


def test_removing(file: Path) -> None:
    before = values(file)
    metadata_edit.change(file, remove=[NAME])
    del before[NAME]
    assert values(file) == before
    with pytest.raises(MetadataError, match=r"has no general.nam; did you mean general"):
        metadata_edit.change(file, remove=["general.nam"])


def test_a_copy_leaves_the_file_alone(file: Path, files: list[Path], tmp_path: Path) -> None:
    copy = put(file, NAME, "other", copy=tmp_path / "copy.gguf")
    assert file.read_bytes() == files[0].read_bytes()
    assert values(copy)[NAME][0] == "other"
    with pytest.raises(OutputError, match="--force"):
        put(file, NAME, "third", copy=copy)
    assert values(put(file, NAME, "third", copy=copy, force=True))[NAME][0] == "third"


def test_a_link_is_not_followed_in_silence(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(file)
    with pytest.raises(GgufError, match="is a link"):
        put(link, NAME, "x")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(metadata.command, [str(argument) for argument in arguments])


def test_commands(file: Path, tmp_path: Path) -> None:
    listed = run(file)
    assert listed.exit_code == 0, listed.output
    assert "qwen35.block_count  uint32  5" in listed.stdout
    assert "qwen35.rope.dimension_sections  array[int32]  [3, 3, 2, 0]" in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) < 200
    template = run(file, "get", "tokenizer.chat_template").stdout
    assert template == GGUFReader(file).fields["tokenizer.chat_template"].contents()
    source = tmp_path / "template.jinja"
    source.write_bytes(template.replace("<think>", "<t>\r\n").encode())
    assert run(file, "set", "tokenizer.chat_template", source, "--file").exit_code == 0
    assert GGUFReader(file).fields["tokenizer.chat_template"].contents().encode() == source.read_bytes()
    assert json.loads(run(file, "get", "tokenizer.ggml.tokens").stdout)[:1] == ["!"]
    assert run(file, "unset", "tokenizer.chat_template").exit_code == 0
    gone = run(file, "get", "tokenizer.chat_template")
    assert (gone.exit_code, len(gone.stderr.splitlines())) == (2, 1)


def test_kinds_are_those_of_the_converter(files: list[Path]) -> None:
    """What `set` assumes of a key is what the converter writes for it."""
    for path in files:
        for key, (_, types) in values(path).items():
            kind = metadata_edit.known_kind(key, "qwen35")
            if kind is not None:
                assert [kind.type.name, *([kind.element.name] if kind.element else [])] == types, key
    assert metadata_edit.known_kind("qwen35.block_count", "qwen35") == (GGUFValueType.UINT32, None)
