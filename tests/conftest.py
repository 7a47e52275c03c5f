"""Fixtures shared by all tests: tiny checkpoints, made once each.

torch and llama.cpp are imported where a fixture needs them, so that `pytest -m unit` runs without both.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from oracles.paths import ROOT

if TYPE_CHECKING:
    from qwen35_gguf.runtime import Qwen35

EXAMPLE = ROOT / "examples" / "make_checkpoint.py"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without the marker under `-m unit`: their imports may need torch or llama.cpp."""
    if config.option.markexpr != "unit" or collection_path.suffix != ".py":
        return None
    return True if "mark.unit" not in collection_path.read_text(encoding="utf-8") else None


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
    path = ROOT / "bench" / "stock.py"
    spec = importlib.util.spec_from_file_location("stock", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["stock"] = module  # dataclasses look their module up while it is being executed
    spec.loader.exec_module(module)
    return module.build_stock()


@pytest.fixture(scope="session")
def files(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A text model with an MTP head and its vision encoder; untied, since tied random weights repeat one token."""
    from qwen35_gguf.convert import hf_to_gguf

    return hf_to_gguf.convert(checkpoint(tied=False), "F32", tmp_path_factory.mktemp("runtime"))


@pytest.fixture(scope="session")
def echoing(make_checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    """A model whose MTP head drafts the last token of the main model once more.

    The head returns the hidden state of the main model: `fc` is [0, 1], its layer adds nothing, its norms do not scale.
    Tied random weights mostly repeat a token, so that such drafts are often right.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from qwen35_gguf.convert import hf_to_gguf

    folder = tmp_path_factory.mktemp("echoing")
    source = make_checkpoint.make_checkpoint(
        folder / "checkpoint",
        make_checkpoint.build_spec(tied=True, vision=False, embedding_std=0.25),
        text_only=True,
        seed=5,
    )
    for path in sorted(source.glob("*.safetensors")):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if name.startswith("mtp."):
                tensors[name] = torch.zeros_like(tensor)
                if name == "mtp.fc.weight":
                    tensors[name][:, tensor.shape[0] :] = torch.eye(tensor.shape[0])
        save_file(tensors, path, metadata={"format": "pt"})
    return hf_to_gguf.convert(source, "F32", folder)[0]


@pytest.fixture
def model(files: list[Path]) -> Iterator[Qwen35]:
    """The tiny model, loaded without drafts."""
    from qwen35_gguf.runtime import Qwen35

    with Qwen35(files[0], n_ctx=2048, n_threads=1, draft=0) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Models of real shapes by name, whose weights are holes in the file; made when they are asked for."""
    from oracles import allocator

    folder = tmp_path_factory.mktemp("shapes")

    def make(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else allocator.sparse_model(path, name)

    return make


@pytest.fixture(scope="session")
def quantized_files(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The text model with an MTP head in Q4_K_M, and the mmproj in BF16; treat them as read-only."""
    from qwen35_gguf.convert import hf_to_gguf

    return hf_to_gguf.convert(checkpoint(tied=False), "Q4_K_M", tmp_path_factory.mktemp("quantized"))
