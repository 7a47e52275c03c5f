"""Sequence states are whole on disk or not there, and belong to one model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import OutputError
from qwen35_gguf.runtime.engine.forest.prefix_cache import SequenceState
from qwen35_gguf.runtime.engine.forest.state_store import StateStore

pytestmark = pytest.mark.unit


def state(items: list[int | str], fill: int = 7, size: int = 1000) -> SequenceState:
    return SequenceState(items, 9, 8, np.full(size, fill, np.uint8), np.arange(4, dtype=np.float32))


def test_a_state_comes_back(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "new" / "folder", "m")
    store.save(state([1, "ü", 2]))
    (stored,) = StateStore(store.folder, "m").states
    found = store.read(stored)
    assert found is not None
    assert (found.items, found.n_pos, found.n_cells) == ([1, "ü", 2], 9, 8)
    np.testing.assert_array_equal(found.state, np.full(1000, 7, np.uint8))
    assert found.hidden is not None
    assert found.hidden.tolist() == [0, 1, 2, 3]


@settings(deadline=None)  # it waits for the disk
@given(at=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_no_damaged_file_comes_back(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    store = StateStore(tmp_path_factory.mktemp("states"), "m")
    path = store.save(state([1, 2]))
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    assert [store.read(stored) for stored in StateStore(store.folder, "m").states] in ([], [None])


def test_files_of_another_model_and_other_files_are_passed_over(tmp_path: Path) -> None:
    StateStore(tmp_path, "one").save(state([1]))
    (tmp_path / "note.state").write_text("hello")
    (tmp_path / "empty.state").touch()
    assert StateStore(tmp_path, "two").states == []
    assert len(StateStore(tmp_path, "one").states) == 1


def test_the_oldest_files_go(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "m", max_bytes=5000)
    paths = [store.save(state([number])) for number in range(10)]
    left = sorted(tmp_path.glob("*.state"))
    assert paths[-1] in left
    assert sum(path.stat().st_size for path in left) <= 5000


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be used for states"):
        StateStore(tmp_path / "file" / "folder", "m")


def test_files_of_other_programs_are_not_removed(tmp_path: Path) -> None:
    (tmp_path / "mine.state").write_bytes(b"x" * 9000)
    store = StateStore(tmp_path, "m", max_bytes=3000)
    for number in range(4):
        store.save(state([number]))
    assert (tmp_path / "mine.state").stat().st_size == 9000
    assert len(list(tmp_path.glob("*.state"))) < 5
