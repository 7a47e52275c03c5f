"""docs/ladder.py: its rungs are files that a conversion makes, each larger than the one before."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from oracles.paths import ROOT


@pytest.fixture(scope="module")
def ladder() -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("ladder", ROOT / "docs" / "ladder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_each_rung_is_larger_and_rounding_reaches_all_weights_of_k_quants(ladder: ModuleType) -> None:
    found = list(ladder.rungs("9B"))
    assert [rung.size for rung in found] == sorted(rung.size for rung in found)
    assert 2.5 < found[0].bits < 3 < found[1].bits < 3.5 < found[-1].bits < 6.6
    assert all(rung.rounded > 0.999 for rung in found[1:])
