"""Contexts beyond the native one are computed as transformers does, and only those."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from inputs.headers import with_values
from oracles import llama
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import ContextError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.runtime.context_spec import ContextSpec, Yarn
from qwen35_gguf.runtime.llama.context import context_fields
from qwen35_gguf.runtime.planning.yarn import native_context, yarn_for, yarn_note


def test_yarn_gives_the_logits_of_transformers(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    source = checkpoint(seed=1, mtp=False)
    path = hf_to_gguf.convert(source, "F32", tmp_path, vision=False)[0]
    header = read_header(path)
    native = native_context(header)
    fields = context_fields(ContextSpec(4 * native, yarn=yarn_for(header, 4 * native)))
    options = {name: fields[name] for name in ("rope_scaling_type", "rope_freq_scale", "yarn_orig_ctx")}
    config = transformers.AutoConfig.from_pretrained(source)
    text = config.get_text_config()
    text.rope_parameters |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": native}
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(
        source, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = np.random.default_rng(0).integers(0, 2033, 200).tolist()
    with torch.no_grad():
        reference = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
    with llama.loaded(path) as loaded:
        vocabulary = reference.shape[1]
        with llama.context(loaded, 4 * native, **options) as ctx:
            found = llama.decode(ctx, tokens, 0, vocabulary)
        with llama.context(loaded, 512) as ctx:
            plain = llama.decode(ctx, tokens, 0, vocabulary)
    assert llama.mean_kl(reference, found) < 1e-7
    assert llama.mean_kl(reference, plain) > 100 * llama.mean_kl(reference, found)  # it makes a difference


def test_yarn_only_beyond_the_native_context(real: Callable[[str], Path]) -> None:
    header = read_header(real("9b"))
    for n_ctx in (1, 4096, 262144):
        assert yarn_for(header, n_ctx) is None
        assert yarn_note(header, n_ctx) is None
    assert yarn_for(header, 262145).freq_scale < 1
    assert yarn_for(header, 1 << 20) == Yarn(freq_scale=0.25, native_ctx=262144)
    note = yarn_note(header, 1 << 20)
    assert "4 times the native 262,144" in note
    assert "34.4 GB instead of at most 8.6 GB" in note
    for n_ctx in (0, -1, (1 << 20) + 1):
        with pytest.raises(ContextError, match="1,048,576"):
            yarn_for(header, n_ctx)
    scaled = with_values(
        header, {"qwen35.context_length": 1 << 20, "qwen35.rope.scaling.original_context_length": 262144}
    )
    assert yarn_for(scaled, 1 << 20) is None
