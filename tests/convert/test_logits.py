"""The F32 GGUF in llama.cpp computes what transformers computes in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from oracles import llama
from qwen35_gguf.convert import hf_to_gguf

MODELS = {
    "1 value head a key": {"value_heads_per_key": 1},
    "2 value heads a key": {"value_heads_per_key": 2, "seed": 1},
    "3 value heads a key": {"value_heads_per_key": 3, "seed": 2},
    "untied": {"tied": False, "seed": 3},
    "untied, 3 value heads a key": {"value_heads_per_key": 3, "tied": False, "seed": 4},
    "text only": {"text_only": True, "seed": 5},
    "experts": {"moe": True, "seed": 6},
}
TOKENS = 200


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_logits_equal_transformers(checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, object]) -> None:
    source = checkpoint(**options)
    (gguf,) = hf_to_gguf.convert(source, "F32", tmp_path, vision=False)
    tokens = np.random.default_rng(0).integers(0, 2033, TOKENS).tolist()
    config = transformers.AutoConfig.from_pretrained(source)
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        reference = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
    assert len(np.unique(reference.argmax(-1))) > TOKENS // 4  # not a constant

    for way in ({}, {"n_ubatch": 64}, {"prompt": TOKENS // 2}):
        found = llama.logits(gguf, tokens, **way)
        assert llama.mean_kl(reference, found) < 1e-7, way
        np.testing.assert_array_equal(found.argmax(-1), reference.argmax(-1), err_msg=str(way))
