"""Which package runs models when several are installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qwen35_gguf.llama_package import VARIABLE, installed_runtime

pytestmark = pytest.mark.unit

PATCHED = {"qwen35_patches.py": "PATCHES = ['0001-a']\n"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only one where packages are found."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("llama_cpp", "qwen35_engine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


def install(site: Path, name: str, version: str, files: dict[str, str] | None = None) -> None:
    (site / name).mkdir()
    for file, text in {"__init__.py": f'__version__ = "{version}"\n', **(files or {})}.items():
        (site / name / file).write_text(text)


@pytest.mark.usefixtures("site")
def test_nothing_installed() -> None:
    assert installed_runtime() is None


def test_a_llama_cpp_that_was_patched_here_comes_before_the_engine_and_a_stock_one_after_it(site: Path) -> None:
    install(site, "qwen35_engine", "0.3.36.post1", PATCHED)
    assert (found := installed_runtime())
    assert (found.package, found.distribution, found.version) == ("qwen35_engine", "qwen35-engine", "0.3.36.post1")
    install(site, "llama_cpp", "0.3.1")
    assert (found := installed_runtime())
    assert found.is_engine
    (site / "llama_cpp" / "qwen35_patches.py").write_text(PATCHED["qwen35_patches.py"])
    assert (found := installed_runtime())
    assert (found.package, found.patches) == ("llama_cpp", ("0001-a",))


def test_the_environment_chooses(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "qwen35_engine", "0.3.36.post1", PATCHED)
    install(site, "llama_cpp", "0.3.1")
    monkeypatch.setenv(VARIABLE, "llama_cpp")
    assert (found := installed_runtime())
    assert found.distribution == "llama-cpp-python"
    monkeypatch.setenv(VARIABLE, "something else")
    assert (found := installed_runtime())
    assert found.is_engine


def test_libraries_of_the_engine_have_names_of_their_own(site: Path) -> None:
    install(site, "qwen35_engine", "0.3.36.post1", PATCHED)
    install(site, "llama_cpp", "0.3.1")
    engine = installed_runtime()
    assert engine is not None
    assert "qwen35-ggml-base" in engine.library("ggml-base").name
    stock = engine._replace(package="llama_cpp")
    assert "qwen35" not in stock.library("ggml-base").name
