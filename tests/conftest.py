"""Fixtures shared by all tests: tiny checkpoints, made once each."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "make_checkpoint.py"


@pytest.fixture(scope="session")
def make_checkpoint() -> ModuleType:
    """The module examples/make_checkpoint.py, which is a script and not part of a package."""
    if "make_checkpoint" in sys.modules:
        return sys.modules["make_checkpoint"]
    spec = importlib.util.spec_from_file_location("make_checkpoint", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_checkpoint"] = module  # dataclasses look their module up while it is being executed
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of tiny checkpoints, built once for each set of options; treat them as read-only.

    Options: those of build_spec (value_heads_per_key, tied, mtp, vision, moe, vocab, embedding_std), and text_only,
    style, shards, seed.
    """
    made: dict[tuple[tuple[str, Any], ...], Path] = {}

    def build(*, text_only: bool = False, style: str = "hf", shards: int = 1, seed: int = 0, **changes: Any) -> Path:
        writing = {"text_only": text_only, "style": style, "shards": shards, "seed": seed}
        key = tuple(sorted((writing | changes).items()))
        if key not in made:
            directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
            made[key] = make_checkpoint.make_checkpoint(directory, make_checkpoint.build_spec(**changes), **writing)
        return made[key]

    return build


@pytest.fixture(scope="session")
def stock_tools() -> Any:
    """The programs of a stock llama.cpp; the first time they are built, which takes minutes."""
    path = Path(__file__).parents[1] / "bench" / "stock.py"
    spec = importlib.util.spec_from_file_location("stock", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["stock"] = module  # dataclasses look their module up while it is being executed
    spec.loader.exec_module(module)
    return module.build_stock()
