"""A model file is identified by its content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwen35_gguf.runtime.model_files import model_identity

pytestmark = pytest.mark.unit


def test_models_are_told_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    data = np.random.default_rng(0).integers(0, 255, 1 << 20, dtype=np.uint8)
    one.write_bytes(data.tobytes())
    data[-5] ^= 1
    two.write_bytes(data.tobytes())
    assert model_identity(one) != model_identity(two)
    assert model_identity(one) != model_identity(one, kv="q8_0")
    assert model_identity(one) == model_identity(one)
