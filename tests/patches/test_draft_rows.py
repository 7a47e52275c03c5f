"""An MTP head limited to the first rows of the output matrix drafts as before among these, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from oracles import llama
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.llama.install import installed_runtime

ROWS = 700
runtime = installed_runtime()

pytestmark = pytest.mark.skipif(not (runtime and runtime.patches), reason="a stock llama.cpp drafts from all rows")


def override(arch: str, rows: int) -> object:
    values = (llama_cpp.llama_model_kv_override * 2)()
    values[0].key = f"{arch}.nextn_vocab_size".encode()
    values[0].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
    values[0].value.val_i64 = rows
    return values


@pytest.mark.parametrize(("options", "arch"), [({"seed": 1}, "qwen35"), ({"moe": True, "seed": 3}, "qwen35moe")])
def test_the_first_rows_are_what_all_rows_give(
    checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, object], arch: str
) -> None:
    (gguf,) = hf_to_gguf.convert(checkpoint(**options), "F32", tmp_path, vision=False)
    tokens = np.random.default_rng(1).integers(0, 2033, 40).tolist()
    hidden, every = llama.draft_logits(gguf, tokens)
    hidden_too, first = llama.draft_logits(gguf, tokens, kv_overrides=override(arch, ROWS))
    np.testing.assert_array_equal(hidden, hidden_too)
    np.testing.assert_allclose(first[:, :ROWS], every[:, :ROWS], rtol=1e-5, atol=1e-5)
    assert np.isneginf(first[:, ROWS:]).all()
    assert first.shape == every.shape


def test_more_rows_than_there_are_means_all(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    (gguf,) = hf_to_gguf.convert(checkpoint(seed=1), "F32", tmp_path, vision=False)
    tokens = np.random.default_rng(1).integers(0, 2033, 8).tolist()
    _, every = llama.draft_logits(gguf, tokens)
    _, same = llama.draft_logits(gguf, tokens, kv_overrides=override("qwen35", 10**6))
    np.testing.assert_array_equal(every, same)
