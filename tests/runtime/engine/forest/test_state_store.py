"""Sequence states are whole on disk or not there, and belong to one model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import OutputError
from qwen35_gguf.runtime.engine.forest import state_store
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


# ---- what a list of states says that are not there -----------------------------------------------------------------


def test_a_state_that_was_removed_for_others_is_not_held_any_more(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "m", max_bytes=5000)
    for number in range(10):
        store.save(state([number, 1, 2]))
        os.utime(store.path([number, 1, 2]), (number, number))
    assert {each.path for each in store.states} == set(tmp_path.glob("*.state"))
    assert store.covers([0, 1, 2]) == 0  # so that it is written again
    assert store.covers([9, 1, 2]) == 3


def test_a_state_that_another_process_removed_is_not_held_any_more(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "m")
    store.save(state([1, 2, 3]))
    store.save(state([1, 2])).unlink()
    assert store.covers([1, 2, 3]) == 3
    store.path([1, 2, 3]).unlink()
    assert store.covers([1, 2, 3]) == 0
    assert store.states == []


def test_a_state_that_is_written_again_is_held_once(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "m")
    store.save(state([1], fill=1))
    store.save(state([1], fill=2))
    (stored,) = store.states
    found = store.read(stored)
    assert found is not None
    assert found.state[0] == 2


def test_a_state_that_is_larger_than_the_budget_is_not_written(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "m", max_bytes=2500)
    kept = store.save(state([1]))
    assert store.save(state([2], size=3000)) is None
    assert list(tmp_path.iterdir()) == [kept]
    assert len(store.states) == 1
    assert StateStore(tmp_path / "none", "m", max_bytes=0).save(state([1])) is None


def test_a_state_that_is_passed_over_twice_is_no_error(tmp_path: Path) -> None:
    store = StateStore(tmp_path, "m")
    store.save(state([1]))
    (stored,) = store.states
    store.forget(stored)
    store.forget(stored)
    assert store.states == []


def test_a_state_that_memory_does_not_hold_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore(tmp_path, "m")
    store.save(state([1]))

    def refuse(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "frombuffer", refuse)
        assert store.read(store.states[0]) is None
    assert store.read(store.states[0]) is not None


# ---- files that somebody made --------------------------------------------------------------------------------------

ODD_HEADERS: dict[str, dict[str, Any]] = {
    "sizes below zero": {"sizes": [1020, -4]},
    "sizes that are no whole numbers": {"sizes": [1000.0, 16.0]},
    "sizes that are truths": {"sizes": [1016, False]},
    "a position below zero": {"n_pos": -1},
    "cells below zero": {"n_cells": -8},
    "a position that is a truth": {"n_pos": True},
    "a token below zero": {"items": [-1, 2]},
    "a token that is none": {"items": [1 << 40, 2]},
    "items that are truths": {"items": [True, 2]},
    "nothing": {"items": []},
}


@pytest.mark.parametrize("change", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_headers_that_nobody_writes_are_passed_over(tmp_path: Path, change: dict[str, Any]) -> None:
    """Their checksum is right: it tells what is damaged, not who wrote it."""
    store = StateStore(tmp_path, "m")
    whole = state([1, 2])
    parts = [whole.state, np.ascontiguousarray(whole.hidden).view(np.uint8)]
    header = {"identity": "m", "items": [1, 2], "n_pos": 9, "n_cells": 8, "sizes": [1000, 16], **change}
    cut = [np.concatenate(parts)[:1020], np.empty(0, np.uint8)] if header["sizes"][1] == -4 else parts
    header["sha256"] = state_store._digest(header, cut)
    text = json.dumps(header).encode()
    data = state_store.MAGIC + len(text).to_bytes(8, "little") + text + b"".join(part.tobytes() for part in parts)
    (tmp_path / f"{'0' * 32}.state").write_bytes(data)
    assert StateStore(tmp_path, "m").states == []
    assert store.states == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_and_a_folder_do_not_stop_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{'0' * 32}.state")
    (tmp_path / f"{'1' * 32}.state").mkdir()
    store = StateStore(tmp_path, "m", max_bytes=3000)
    for number in range(5):
        store.save(state([number]))
    assert len(store.states) < 3
    assert len(list(tmp_path.iterdir())) < 5
