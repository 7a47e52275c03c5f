"""States are found by their prefix, go when they are the oldest, and are whole on disk or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen35_gguf.errors import OutputError
from qwen35_gguf.runtime.engine.prefix_cache import (
    Checkpoint,
    PrefixCache,
    Snapshot,
    StateFolder,
    common_prefix,
    model_identity,
)

pytestmark = pytest.mark.unit

ITEMS = st.lists(st.one_of(st.integers(0, 2), st.sampled_from(["a", "b"])), max_size=6)


def checkpoint(items: list[int | str], size: int = 100) -> Checkpoint:
    return Checkpoint(items, len(items), len(items), np.zeros(size, np.uint8))


def snapshot(items: list[int | str], fill: int = 7, size: int = 1000) -> Snapshot:
    return Snapshot(items, 9, 8, np.full(size, fill, np.uint8), np.arange(4, dtype=np.float32))


@given(ITEMS, ITEMS)
def test_common_prefix(first: list[int | str], second: list[int | str]) -> None:
    found = common_prefix(first * 700, second * 700)
    assert (first * 700)[:found] == (second * 700)[:found]
    assert (first * 700)[found : found + 1] != (second * 700)[found : found + 1] or found == min(
        len(first) * 700, len(second) * 700
    )


@given(st.lists(ITEMS), ITEMS, st.integers(0, 7))
def test_the_longest_prefix_is_found(known: list[list[int | str]], wanted: list[int | str], limit: int) -> None:
    cache = PrefixCache(1 << 20)
    for items in known:
        cache.add(checkpoint(items))
    lengths = [len(items) for items in known if items == wanted[: len(items)] and len(items) <= limit]
    found = cache.checkpoint(wanted, limit)
    assert (len(found.items) if found else None) == max(lengths, default=None)


@given(st.lists(st.tuples(ITEMS, st.integers(0, 400)), max_size=30))
def test_the_budget_holds(entries: list[tuple[list[int | str], int]]) -> None:
    cache = PrefixCache(1000)
    for items, size in entries:
        cache.add(checkpoint(items, size))
        assert cache.n_bytes <= 1000


def test_of_a_conversation_the_middle_goes_first() -> None:
    cache = PrefixCache(4 * checkpoint([0] * 5).n_bytes)
    for length in (1, 2, 3, 4):
        cache.use_prefixes([0] * length)
        cache.add(checkpoint([0] * length))
    cache.use_prefixes([0] * 5)
    cache.add(checkpoint([0] * 5, 300))
    assert cache.checkpoint([0], 5) is not None
    assert cache.checkpoint([0] * 4, 4) is not None
    assert len(cache.checkpoint([0] * 4, 4).items) < 4  # type: ignore[union-attr]


# ---- on disk -----------------------------------------------------------------------------------------------------


def test_a_snapshot_comes_back(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "new" / "folder", "m")
    folder.save(snapshot([1, "ü", 2]))
    (listed,) = StateFolder(folder.folder, "m").listed()
    found = folder.read(listed)
    assert found is not None
    assert (found.items, found.n_pos, found.n_cells) == ([1, "ü", 2], 9, 8)
    np.testing.assert_array_equal(found.state, np.full(1000, 7, np.uint8))
    assert found.hidden is not None
    assert found.hidden.tolist() == [0, 1, 2, 3]


@given(at=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_no_damaged_file_comes_back(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    folder = StateFolder(tmp_path_factory.mktemp("states"), "m")
    path = folder.save(snapshot([1, 2]))
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    assert [folder.read(listed) for listed in folder.listed()] in ([], [None])


def test_files_of_another_model_and_other_files_are_passed_over(tmp_path: Path) -> None:
    StateFolder(tmp_path, "one").save(snapshot([1]))
    (tmp_path / "note.state").write_text("hello")
    (tmp_path / "empty.state").touch()
    assert list(StateFolder(tmp_path, "two").listed()) == []
    assert len(list(StateFolder(tmp_path, "one").listed())) == 1


def test_the_oldest_files_go(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "m", max_bytes=5000)
    paths = [folder.save(snapshot([number])) for number in range(10)]
    left = sorted(tmp_path.glob("*.state"))
    assert paths[-1] in left
    assert sum(path.stat().st_size for path in left) <= 5000


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be used for states"):
        StateFolder(tmp_path / "file" / "folder", "m")


def test_models_are_told_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    data = np.random.default_rng(0).integers(0, 255, 1 << 20, dtype=np.uint8)
    one.write_bytes(data.tobytes())
    data[-5] ^= 1
    two.write_bytes(data.tobytes())
    assert model_identity(one) != model_identity(two)
    assert model_identity(one) != model_identity(one, kv="q8_0")
    assert model_identity(one) == model_identity(one)
