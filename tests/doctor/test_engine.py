"""An engine is tried in a process of its own, whose death is described."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import build
from oracles.paths import ROOT
from qwen35_gguf.doctor.engine import Engine, find_engine, series_of, try_engine
from qwen35_gguf.doctor.engine_trial import features
from qwen35_gguf.llama_package import BINDINGS, Installed, describe

INSTALLED = Installed("0.3.36", Path("llama_cpp"), ())


def tried(code: str) -> Engine:
    return try_engine(INSTALLED, (sys.executable, "-c", code))


@pytest.mark.unit
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_that_dies_is_described() -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.{})".format
    assert (tried(killed("SIGILL")).failure, tried(killed("SIGILL")).illegal) == (
        "it ends by an illegal instruction",
        True,
    )
    assert (tried(killed("SIGSEGV")).failure, tried(killed("SIGSEGV")).illegal) == ("it ends by signal SIGSEGV", False)


@pytest.mark.unit
def test_failures_and_answers_are_read() -> None:
    assert (
        tried("import sys; print('a\\nlibgomp is missing', file=sys.stderr); sys.exit(1)").failure
        == "libgomp is missing"
    )
    assert tried("import sys; sys.exit(3)").failure == "it ends with exit code 3"
    assert tried("print('nonsense')").failure == "what it answers cannot be read"
    answer = json.dumps({"features": ["AVX"], "devices": [{"name": "CPU"}]})
    found = tried(f"print('noise'); print({answer!r})")
    assert (found.failure, found.features, found.devices) == ("", {"AVX"}, ({"name": "CPU"},))
    assert try_engine(INSTALLED, ("/nonexistent/python",)).failure.startswith("it does not answer")


@pytest.mark.unit
def test_features_are_those_of_the_cpu() -> None:
    info = "CUDA : ARCHS = 860 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX = 1 | AVX2 = 0 | OPENMP = 1 | "
    assert features(info) == ["AVX", "SSE3"]
    assert features("nothing") == []


@pytest.mark.unit
def test_an_installation_is_described_by_its_files(tmp_path: Path) -> None:
    assert describe(tmp_path, BINDINGS) is None
    (tmp_path / "__init__.py").write_text('__version__ = "1.2.3"\n', encoding="utf-8")
    assert describe(tmp_path, BINDINGS) == Installed("1.2.3", tmp_path, ())
    listing = "PATCHES = ['0001-a', '0002-b']\nSERIES = \"0123abcd\"\n"
    (tmp_path / "qwen35_patches.py").write_text(listing, encoding="utf-8")
    assert describe(tmp_path, BINDINGS) == Installed("1.2.3", tmp_path, ("0001-a", "0002-b"), BINDINGS, "0123abcd")


@pytest.mark.unit
def test_the_series_of_a_clone_is_that_which_a_build_records(tmp_path: Path) -> None:
    assert series_of(ROOT) == build.series_id()
    assert series_of(tmp_path) == ""


def test_the_installed_engine_runs_here() -> None:
    found = find_engine()
    if found.installed is None:
        pytest.skip("no llama.cpp is installed")
    assert (found.failure, found.illegal) == ("", False)
    assert any(device["name"] == "CPU" for device in found.devices)
