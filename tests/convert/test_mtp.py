"""The MTP head in the same GGUF drafts what a torch reference drafts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oracles import llama, mtp_reference
from qwen35_gguf.convert import hf_to_gguf

MODELS = {
    "tied": {"seed": 1},
    "untied, 3 value heads a key": {"tied": False, "value_heads_per_key": 3, "seed": 2},
    "experts": {"moe": True, "seed": 3},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_draft_logits_equal_the_reference(
    checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, object]
) -> None:
    source = checkpoint(**options)
    (gguf,) = hf_to_gguf.convert(source, "F32", tmp_path, vision=False)
    tokens = np.random.default_rng(1).integers(0, 2033, 120).tolist()
    reference_hidden, reference = mtp_reference.draft_logits(source, tokens)
    hidden, found = llama.draft_logits(gguf, tokens)
    np.testing.assert_allclose(hidden, reference_hidden.numpy(), atol=1e-3)
    assert llama.mean_kl(reference.numpy(), found) < 1e-6
    np.testing.assert_array_equal(found.argmax(-1), reference.numpy().argmax(-1))
