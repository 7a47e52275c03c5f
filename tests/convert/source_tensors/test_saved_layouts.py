"""Whatever way the weights are saved, the files are the same, and everything that reads the checkpoint reads it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from inputs import saved_layouts
from inputs.saved_layouts import Layout
from qwen35_gguf.convert import hf_to_gguf, verify
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.tensor_plan import published_weights
from qwen35_gguf.convert.weights_digest import WeightsDigest

Factory = Callable[..., Path]


def saved(source: Path, target: Path, layout: Layout) -> Path:
    folder = Path(shutil.copytree(source, target))
    layout(folder)
    return folder


@pytest.mark.parametrize("layout", saved_layouts.EXPERTS.values(), ids=saved_layouts.EXPERTS.keys())
def test_experts_give_the_same_bytes_however_they_are_saved(
    checkpoint: Factory, tmp_path: Path, layout: Layout
) -> None:
    source = checkpoint(moe=True, vision=False)
    folder = saved(source, tmp_path / "tiny", layout)
    (wanted,) = hf_to_gguf.convert(source, "Q8_0", tmp_path / "wanted")
    (found,) = hf_to_gguf.convert(folder, "Q8_0", tmp_path / "found")
    assert found.read_bytes() == wanted.read_bytes()
    for of in (source, folder):
        assert all(result.passed for result in verify.verify(found, of))
    weights = dict(published_weights(open_checkpoint(folder)))
    for name, array in published_weights(open_checkpoint(source)):
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


def test_an_mlx_export_of_experts_is_that_of_the_published_weights(checkpoint: Factory, tmp_path: Path) -> None:
    source = checkpoint(moe=True, vision=False)
    folder = saved(source, tmp_path / "tiny", saved_layouts.rewritten(saved_layouts.as_mlx))
    (wanted,) = hf_to_gguf.convert(source, "F32", tmp_path / "wanted", mtp=False)
    (found,) = hf_to_gguf.convert(folder, "F32", tmp_path / "found")
    assert all(result.passed for result in verify.verify(found, folder))
    for one, other in zip(GGUFReader(wanted).tensors, GGUFReader(found).tensors, strict=True):
        assert one.name == other.name
        # 1 + w is rounded to BF16 in the export.
        exact = "norm" not in one.name or "ssm" in one.name
        np.testing.assert_allclose(other.data, one.data, atol=0 if exact else 2**-8, rtol=0, err_msg=one.name)


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "experts"])
def test_fp8_weights_are_read_alike_by_all(checkpoint: Factory, tmp_path: Path, moe: bool) -> None:
    source = checkpoint(moe=moe, vision=False)
    folder = saved(source, tmp_path / "tiny", saved_layouts.as_fp8)
    (file,) = hf_to_gguf.convert(folder, "BF16", tmp_path / "out")
    assert all(result.passed for result in verify.verify(file, folder))
    weights = dict(published_weights(open_checkpoint(folder)))
    for name, array in published_weights(open_checkpoint(source)):
        np.testing.assert_allclose(
            weights[name].astype(np.float32), array.astype(np.float32), rtol=0.07, atol=0.002, err_msg=name
        )


LAYOUTS = saved_layouts.EXPERTS | {"FP8": saved_layouts.as_fp8}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_checksum_of_the_weights_is_that_of_all_that_is_stored(
    checkpoint: Factory, tmp_path: Path, layout: Layout
) -> None:
    folder = saved(checkpoint(moe=True, vision=False), tmp_path / "tiny", layout)
    opened = open_checkpoint(folder)
    half = WeightsDigest(opened)
    for source in list(opened.tensors)[::2]:
        half.add(source)
    assert half.hexdigest() == WeightsDigest(opened).hexdigest()
