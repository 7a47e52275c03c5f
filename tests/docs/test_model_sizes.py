"""The table of sizes in the README: computed from the shapes, as `qwen35 convert` and `qwen35 plan` see them."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from oracles.paths import ROOT


@pytest.mark.slow
def test_sizes_of_the_readme() -> None:
    spec = importlib.util.spec_from_file_location("model_sizes", ROOT / "docs" / "model_sizes.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_sizes"] = module  # dataclasses look their module up while it is being executed
    spec.loader.exec_module(module)
    rows = {line.split("`")[1].removeprefix("Qwen/Qwen3.5-"): line for line in table()}
    assert set(rows) <= set(module.SPECS)
    found = module.measure("0.8B")
    text = f"{found.text / 1e9:.2f} + {found.mmproj / 1e9:.2f} GB"
    assert f"| {found.download / 1e9:.1f} GB | {text} | {found.memory / 1e9:.1f} GB |" in rows["0.8B"]


def table() -> list[str]:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| `Qwen/")]
