"""Converted tiny models, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles import allocator
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime import Qwen35


@pytest.fixture(scope="session")
def files(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A text model with an MTP head and its vision tower; untied, since tied random weights repeat one token."""
    return hf_to_gguf.convert(checkpoint(tied=False), "F32", tmp_path_factory.mktemp("runtime"))


@pytest.fixture(scope="session")
def echoing(make_checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    """A model whose MTP head drafts what the trunk has just said, once more.

    The head passes the trunk's hidden state on: `fc` is [0, 1], its layer adds nothing, its norms do not scale. Tied
    random weights mostly repeat a token, so that such drafts are often right.
    """
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
    with Qwen35(files[0], n_ctx=2048, n_threads=1, draft=0) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Models of real shapes by name, whose weights are holes in the file; made when they are asked for."""
    folder = tmp_path_factory.mktemp("shapes")

    def make(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else allocator.sparse_model(path, name)

    return make
