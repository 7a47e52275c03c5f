"""The vision encoder in mtmd computes what transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oracles import vision
from qwen35_gguf.convert import hf_to_gguf

SIZES = [(128, 128), (256, 96), (96, 320)]  # multiples of 32, so that neither side resizes


@pytest.mark.parametrize(("mmproj_type", "cosine"), [("F32", 0.9999), ("BF16", 0.999), ("F16", 0.999), ("Q8_0", 0.99)])
def test_image_embeddings_equal_transformers(
    checkpoint: Callable[..., Path], tmp_path: Path, mmproj_type: str, cosine: float
) -> None:
    source = checkpoint(mtp=False)
    gguf, mmproj = hf_to_gguf.convert(source, "F32", tmp_path, mmproj_type=mmproj_type)
    images = [vision.image(width, height, seed) for seed, (width, height) in enumerate(SIZES)]
    expected, found = vision.reference(source, images), vision.embeddings(gguf, mmproj, images)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape
        similarity = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert similarity.min() > cosine
    # The images differ, and so do their embeddings: a constant would not pass.
    assert np.corrcoef(expected[0].mean(0), expected[1].mean(0))[0, 1] < 0.999
