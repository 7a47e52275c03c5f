"""The environment in which llama.cpp's OpenMP library is loaded, and what it is afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from qwen35_gguf.runtime.llama.openmp import POLICY, brief_spinning

SETTINGS_OF_A_LOADED_LIBRARY = """
import os, sys
from qwen35_gguf.runtime.llama.library import library
library()
assert "GOMP_SPINCOUNT" not in os.environ
"""


@pytest.fixture(autouse=True)
def no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in POLICY:
        monkeypatch.delenv(name, raising=False)


def test_spinning_is_limited_meanwhile_only() -> None:
    with brief_spinning():
        assert 1 <= int(os.environ["GOMP_SPINCOUNT"]) < 300_000  # GNU's default
    assert not set(POLICY) & set(os.environ)


def test_the_environment_is_restored_after_an_error() -> None:
    with pytest.raises(ImportError), brief_spinning():
        raise ImportError
    assert not set(POLICY) & set(os.environ)


@pytest.mark.parametrize("name", POLICY)
def test_what_the_user_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    with brief_spinning():
        assert [(other, os.environ[other]) for other in POLICY if other in os.environ] == [(name, "7")]
    assert os.environ[name] == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP reports its settings on Linux")
def test_the_library_that_llama_cpp_loads_has_the_limit() -> None:
    pytest.importorskip("llama_cpp")
    environment = {name: value for name, value in os.environ.items() if name not in POLICY}
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS_OF_A_LOADED_LIBRARY],
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    counts = [line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert counts, done.stderr
    assert all(int(count) < 300_000 for count in counts), counts
