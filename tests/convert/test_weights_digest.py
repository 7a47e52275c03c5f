"""The checksum of the weights against one that the safetensors package gives, in any order and split."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.weights_digest import WeightsDigest

TYPES = {"torch.bfloat16": "BF16", "torch.float32": "F32"}


def expected(folder: Path) -> str:
    """Written down a second time, from what safetensors loads."""
    lines = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in list(file.keys()):
                tensor = file.get_tensor(name)
                raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                shape = "x".join(map(str, tensor.shape))
                lines[name] = f"{name} {TYPES[str(tensor.dtype)]} {shape} {hashlib.sha256(raw).hexdigest()}"
    total = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        total.update(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n".encode())
    for name in sorted(lines):
        total.update(f"{lines[name]}\n".encode())
    return total.hexdigest()


@pytest.mark.parametrize("shards", [1, 3])
def test_it_is_that_of_the_tensors(checkpoint: Callable[..., Path], shards: int) -> None:
    folder = checkpoint(shards=shards)
    opened = open_checkpoint(folder)
    digest = WeightsDigest(opened)
    sources = list(opened.tensors)
    random.Random(1).shuffle(sources)
    for source in sources[: len(sources) // 2]:  # the rest is taken at the end
        digest.add(source)
    assert digest.hexdigest() == expected(folder)


def test_how_the_weights_are_cut_into_files_does_not_matter(checkpoint: Callable[..., Path]) -> None:
    assert len({WeightsDigest(open_checkpoint(checkpoint(shards=n))).hexdigest() for n in (1, 3)}) == 1


def test_one_changed_weight_changes_it(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    for path in checkpoint().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (file,) = tmp_path.glob("*.safetensors")
    before = WeightsDigest(open_checkpoint(tmp_path)).hexdigest()
    tensors = load_file(file)
    tensors[next(iter(tensors))].view(-1)[3] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert WeightsDigest(open_checkpoint(tmp_path)).hexdigest() != before
