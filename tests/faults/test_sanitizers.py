"""The kernels under sanitizers: no byte beyond a block, no undefined behaviour, no race, no leak."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import sanitize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="needs GCC on Linux"),
]


@pytest.mark.parametrize("kind", sanitize.KINDS)
def test_random_inputs(kind: str) -> None:
    if kind == "valgrind" and not shutil.which("valgrind"):
        pytest.skip("needs valgrind: apt-get install valgrind")
    assert sanitize.main([kind, "--seconds", "20"]) == 0
