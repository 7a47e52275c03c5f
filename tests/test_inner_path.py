"""Paths that leave their folder are found, in the spellings of every system; the oracle is the file system."""

from __future__ import annotations

import itertools
import os
from pathlib import Path, PureWindowsPath

import pytest

from qwen35_gguf.inner_path import can_be_stored, is_inside

pytestmark = pytest.mark.unit

OUTSIDE = [
    "", ".", "..", "/", "/etc/passwd", "//host/share", "../a", "a/..", "a/../b", "a/../../b", "./..", r"..\a",
    r"a\..\b", r"\a", r"\\host\share\a", "C:", "C:a", "C:/a", r"C:\a", "c:..", r"\\?\C:\a", r"\\.\pipe\a",
]  # fmt: skip
INSIDE = ["a", "a.gguf", "a/b", "./a", "...", "a..b", "..a", "a..", ".a", "é/😀", " a", "a b/c", "ab:c", "-a"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_leaves_the_folder(name: str) -> None:
    assert not is_inside(name)
    assert not is_inside(name, nested=False)
    assert not can_be_stored(name)


@pytest.mark.parametrize("name", INSIDE)
def test_what_stays(name: str) -> None:
    assert is_inside(name)
    assert can_be_stored(name)
    assert is_inside(name, nested=False) is (Path(name).name == name)


def test_no_combination_leaves_the_folder(tmp_path: Path) -> None:
    for parts in itertools.product(["a", "..", ".", "", "/", "\\", "C:", "..."], repeat=4):
        for name in ("".join(parts), "/".join(parts), "\\".join(parts)):
            if is_inside(name):
                inside = Path(os.path.normpath(tmp_path / name))
                assert inside.is_relative_to(tmp_path), name
                assert (PureWindowsPath("D:/folder") / name).is_relative_to("D:/folder"), name


@pytest.mark.parametrize("name", ["a" * 256, "é" * 128, "a/" + "b" * 256, "a\nb", "\ud800", "a\0b", "a\x1bb"])
def test_what_no_cache_can_hold(name: str) -> None:
    assert is_inside(name)
    assert not can_be_stored(name)


@pytest.mark.parametrize("name", ["a/b", r"a\b", "./a", "a/"])
def test_names_that_are_not_of_the_folder_itself(name: str) -> None:
    assert not is_inside(name, nested=False)
