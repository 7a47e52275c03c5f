"""Shards against llama.cpp, which loads, names, splits and merges them, and the gguf package, which does the same."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFReader, GGUFWriter

from oracles import llama
from qwen35_gguf.commands.files import merge, split
from qwen35_gguf.errors import GgufError, OutputError
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.release import metadata_edit

SIZE = 1_000_000
TOKENS = [5, 17, 300, 42, 1999, 7, 7, 90]


@pytest.fixture(scope="module")
def parts(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return shards.split(files[0], tmp_path_factory.mktemp("shards"), SIZE)


def test_llama_cpp_computes_the_same_from_the_first_shard(files: list[Path], parts: list[Path]) -> None:
    assert len(parts) > 3
    np.testing.assert_array_equal(llama.logits(parts[0], TOKENS), llama.logits(files[0], TOKENS))


def test_llama_cpp_gives_the_shards_the_same_names(parts: list[Path]) -> None:
    stem = str(parts[0]).removesuffix(f"-00001-of-{len(parts):05}.gguf")
    for index, path in enumerate(parts):
        buffer = ctypes.create_string_buffer(4096)
        assert llama_cpp.llama_split_path(buffer, len(buffer), stem.encode(), index, len(parts)) > 0
        assert buffer.value.decode() == str(path)


def test_no_shard_is_larger_than_asked_for_unless_it_holds_one_tensor(parts: list[Path]) -> None:
    for path in parts:
        assert path.stat().st_size <= SIZE or len(read_header(path).tensors) == 1
    # As few as fit: the first tensor of a shard did not fit into the one before.
    for before, after in itertools.pairwise(parts):
        assert before.stat().st_size + read_header(after).tensors[0].nbytes > SIZE


def test_another_reader_finds_every_tensor_in_the_shards(files: list[Path], parts: list[Path]) -> None:
    whole = {tensor.name: np.asarray(tensor.data) for tensor in GGUFReader(files[0]).tensors}
    found = {tensor.name: np.asarray(tensor.data) for path in parts for tensor in GGUFReader(path).tensors}
    assert list(found) == list(whole)
    for name, data in whole.items():
        np.testing.assert_array_equal(found[name], data, err_msg=name)


@pytest.mark.parametrize("start", [0, 2])
def test_joining_gives_the_file_that_was_cut(files: list[Path], parts: list[Path], tmp_path: Path, start: int) -> None:
    joined = shards.merge(parts[start], tmp_path / "joined.gguf")
    assert joined.read_bytes() == files[0].read_bytes()


@pytest.mark.parametrize("small_first", [False, True])
def test_joins_what_the_gguf_package_has_cut(tmp_path: Path, small_first: bool) -> None:
    generator = np.random.default_rng(3)
    data = {f"t{i}": generator.standard_normal((rows, 64), np.float32) for i, rows in enumerate((3, 40, 7, 40, 1))}
    writer = GGUFWriter(tmp_path / "x.gguf", "qwen35", split_max_size=12_000, small_first_shard=small_first)
    writer.add_uint32("qwen35.block_count", 5)
    writer.add_array("general.tags", ["a", "é", ""])
    for name, values in data.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = min(tmp_path.glob("*.gguf"))
    reader = GGUFReader(shards.merge(first, tmp_path / "joined.gguf"))
    assert [tensor.name for tensor in reader.tensors] == list(data)
    for tensor in reader.tensors:
        np.testing.assert_array_equal(tensor.data, data[tensor.name])
    assert reader.fields["general.tags"].contents() == ["a", "é", ""]
    assert not any(key.startswith("split.") for key in reader.fields)


def test_an_odd_alignment_survives(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "x.gguf", "qwen35")
    writer.add_custom_alignment(128)
    for name in "abc":
        writer.add_tensor(name, np.full((3, 5), ord(name), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = shards.split(tmp_path / "x.gguf", tmp_path / "parts", 400)
    assert len(parts) == 3
    for name, path in zip("abc", parts, strict=True):
        reader = GGUFReader(path)
        assert reader.alignment == 128
        assert reader.tensors[0].data_offset % 128 == 0
        assert (reader.tensors[0].data == ord(name)).all()
    assert shards.merge(parts[1], tmp_path / "y.gguf").read_bytes() == (tmp_path / "x.gguf").read_bytes()


def copies(parts: list[Path], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for path in parts:
        (folder / path.name).write_bytes(path.read_bytes())
    return [folder / path.name for path in parts]


def test_incomplete_and_mixed_sets_are_refused(parts: list[Path], tmp_path: Path) -> None:
    mine = copies(parts, tmp_path / "mine")
    mine[2].unlink()
    with pytest.raises(GgufError, match="00003-of-.*is missing"):
        shards.merge(mine[0], tmp_path / "x.gguf")
    mine[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(GgufError, match="belongs to another set"):
        shards.merge(mine[0], tmp_path / "x.gguf")
    mine[2].write_bytes(parts[2].read_bytes()[:-64])
    with pytest.raises(GgufError, match="truncated"):
        shards.merge(mine[0], tmp_path / "x.gguf")
    renamed = mine[0].rename(tmp_path / "mine" / "model.gguf")
    with pytest.raises(GgufError, match="is shard 1 of"):
        shards.merge(renamed, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_wrong_uses_are_named(files: list[Path], parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="nothing to merge"):
        shards.merge(files[0], tmp_path / "x.gguf")
    with pytest.raises(GgufError, match="shard itself"):
        shards.split(parts[1], tmp_path, SIZE)
    with pytest.raises(OutputError, match="one of the shards"):
        shards.merge(parts[0], parts[1])
    with pytest.raises(OutputError, match="exists already"):
        shards.split(files[0], parts[0].parent, SIZE)
    before = parts[0].read_bytes()
    assert shards.split(files[0], parts[0].parent, SIZE, force=True) == parts
    assert parts[0].read_bytes() == before


def test_damage_is_one_line(files: list[Path], tmp_path: Path) -> None:
    """No byte of the header may lead to anything but a refusal or a file."""
    raw = bytearray(files[1].read_bytes())
    end = read_header(files[1]).data_start
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(raw[: end + 64] if generator.random() < 0.2 else raw)
        for at in generator.integers(4, end, 3):
            damaged[at] = generator.integers(256)
        path = tmp_path / "damaged.gguf"
        path.write_bytes(damaged)
        try:
            read_header(path)
        except GgufError as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017 - most, but not all of them raise
    assert refused > 30


def test_a_stopped_split_leaves_nothing(files: list[Path], tmp_path: Path) -> None:
    done = 0

    def stop(count: int) -> None:
        nonlocal done
        done += count
        if done > 3 * SIZE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.split(files[0], tmp_path / "out", SIZE, advance=stop)
    assert not list((tmp_path / "out").iterdir())


def test_commands(files: list[Path], tmp_path: Path) -> None:
    runner = CliRunner()
    cut = runner.invoke(split.command, [str(files[0]), "-o", str(tmp_path), "--max-shard-size", "1.5MB"])
    assert cut.exit_code == 0, cut.output
    first = sorted(tmp_path.glob("*.gguf"))[0]
    assert str(first) in cut.stdout
    joined = runner.invoke(merge.command, [str(first), "-o", str(tmp_path / "joined.gguf")])
    assert joined.exit_code == 0, joined.output
    assert (tmp_path / "joined.gguf").read_bytes() == files[0].read_bytes()
    wrong = runner.invoke(split.command, [str(files[0]), "-o", str(tmp_path), "--max-shard-size", "many"])
    assert wrong.exit_code == 2
    assert "not a size" in wrong.stderr
    again = runner.invoke(merge.command, [str(first), "-o", str(tmp_path / "joined.gguf")])
    assert again.exit_code == 2
    assert "--force" in again.stderr


def test_metadata_of_a_shard_can_be_changed_but_not_what_makes_it_a_shard(parts: list[Path], tmp_path: Path) -> None:
    mine = copies(parts, tmp_path / "mine")
    layout = read_header(mine[0])
    metadata_edit.change(
        mine[0], replace=[metadata_edit.new_entry(layout, "general.name", "A much longer name than before")]
    )
    assert shards.read_set(mine[1])[0].value("general.name") == "A much longer name than before"
    with pytest.raises(Exception, match="describes the layout"):
        metadata_edit.change(mine[0], remove=["split.count"])


# ---- llama-gguf-split --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_split(stock_tools: Any) -> Callable[..., None]:
    """Run llama-gguf-split of a stock llama.cpp."""
    tool = stock_tools.split

    def run(*arguments: object) -> None:
        done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [("--split-max-size", "1M"), ("--split-max-tensors", "7"), ("--no-tensor-first-split", "--split-max-size", "2M")],
)
@pytest.mark.parametrize("file", [0, 1], ids=["model", "tower"])
def test_joins_what_llama_gguf_split_has_cut(
    files: list[Path], gguf_split: Callable[..., None], tmp_path: Path, how: tuple[str, ...], file: int
) -> None:
    gguf_split("--split", *how, files[file], tmp_path / "theirs")
    found = sorted(tmp_path.glob("theirs-*.gguf"))
    assert len(found) > 1
    assert found == [shards.shard_path(tmp_path, "theirs", index, len(found)) for index in range(len(found))]
    joined = shards.merge(found[-1], tmp_path / "joined.gguf")
    assert joined.read_bytes() == files[file].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("file", [0, 1], ids=["model", "tower"])
def test_llama_gguf_split_joins_what_we_have_cut(
    files: list[Path], gguf_split: Callable[..., None], tmp_path: Path, file: int
) -> None:
    parts = shards.split(files[file], tmp_path / "parts", SIZE)
    gguf_split("--merge", parts[0], tmp_path / "joined.gguf")
    expected, joined = read_header(files[file]), read_header(tmp_path / "joined.gguf")
    # It leaves the keys of shards in the file, with no shards in them.
    assert [entry for entry in joined.entries if entry.key not in shards.SPLIT_KEYS] == list(expected.entries)
    assert joined.value("split.count") == 0
    assert joined.tensors == expected.tensors
    assert joined.path.read_bytes()[joined.data_start :] == expected.path.read_bytes()[expected.data_start :]


@pytest.mark.slow
def test_shards_of_the_same_tensors_are_the_same_files(
    files: list[Path], gguf_split: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    gguf_split("--split", "--split-max-tensors", "1", files[0], tmp_path / "theirs" / files[0].stem)
    ours = shards.split(files[0], tmp_path / "ours", 1)
    assert [path.name for path in ours] == sorted(path.name for path in (tmp_path / "theirs").iterdir())
    for path in ours:
        assert path.read_bytes() == (tmp_path / "theirs" / path.name).read_bytes(), path.name
