"""The folder of what is kept between runs; patches/ and bench/ use the same one, in code of their own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from oracles.paths import ROOT
from qwen35_gguf.cache_dir import cache_dir, profile_dir


@pytest.fixture
def sdist(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module patches/sdist.py, which imports nothing of the package."""
    spec = importlib.util.spec_from_file_location("sdist_alone", ROOT / "patches" / "sdist.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look for the module of a class there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("value", [None, "", "elsewhere"])
def test_the_variable_or_the_home_folder(
    sdist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("QWEN35_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("QWEN35_CACHE", value and str(tmp_path / value))
    expected = tmp_path / "elsewhere" if value else tmp_path / "home" / ".cache" / "qwen35-gguf"
    assert cache_dir() == expected
    assert profile_dir() == expected / "profiles"
    assert sdist.cache_folder() == expected


@pytest.mark.parametrize(("value", "counts"), [("shared", True), ("", False), (None, False), ("relative", False)])
@pytest.mark.parametrize("chosen", [False, True])
def test_the_folder_of_the_desktop_counts_after_our_own(
    sdist: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, counts: bool, chosen: bool
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("QWEN35_CACHE", str(tmp_path / "own") if chosen else "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / value) if value == "shared" else value)
    shared = (tmp_path / "shared" if counts else tmp_path / "home" / ".cache") / "qwen35-gguf"
    expected = tmp_path / "own" if chosen else shared
    assert cache_dir() == expected
    assert sdist.cache_folder() == expected
