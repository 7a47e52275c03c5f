"""An adapter merged while converting gives the weights of PEFT's merge_and_unload, within the rounding of BF16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("peft", reason="peft is not installed")

from oracles import peft_lora
from qwen35_gguf.convert.adapters.adapter_folder import open_adapters
from qwen35_gguf.convert.adapters.merging import merge_adapters
from qwen35_gguf.convert.checkpoint import Checkpoint, open_checkpoint

Make = Callable[..., Path]

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DELTA_NET = ["in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"]
TEXT = [*ATTENTION, *DELTA_NET, "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]

# Name: options of the checkpoint, of the adapter.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": ({}, {"target_modules": TEXT}),
    "rslora": ({}, {"target_modules": TEXT, "use_rslora": True}),
    "dora": ({"tied": False}, {"target_modules": [*TEXT, "embed_tokens", "lm_head"], "use_dora": True}),
    "all-linear dora with biases": ({}, {"target_modules": "all-linear", "use_dora": True, "bias": "all"}),
    "biases of adapted modules": ({}, {"target_modules": ["qkv", "linear_fc1"], "bias": "lora_only"}),
    "lora_bias": ({}, {"target_modules": ["qkv"], "lora_bias": True}),
    "convolution of patches": ({}, {"target_modules": ["patch_embed.proj"]}),
    "dora of a convolution": ({}, {"target_modules": ["patch_embed.proj"], "use_dora": True}),
    "patterns": (
        {},
        {
            "target_modules": TEXT,
            "rank_pattern": {r"layers\.0\.linear_attn\.in_proj_qkv": 2, "^model.language_model.*q_proj": 6},
            "alpha_pattern": {"o_proj": 32, "down_proj": 3},
            "use_rslora": True,
        },
    ),
    "some layers": ({}, {"target_modules": TEXT, "layers_to_transform": [1, 3]}),
    "fan_in_fan_out": ({}, {"target_modules": ["q_proj"], "fan_in_fan_out": True}),
    "tied, head saved": ({}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "tied, embedding saved": ({}, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "tied, both saved": (
        {},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "tied, lora of the embedding": ({}, {"target_modules": ["q_proj", "embed_tokens"]}),
    "tied, lora of the head": ({}, {"target_modules": ["q_proj", "lm_head"]}),
    "tied, lora of both": ({}, {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
    "untied, lora of both": ({"tied": False}, {"target_modules": ["embed_tokens", "lm_head"]}),
    "saved norms and convolutions": (
        {"tied": False},
        {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "conv1d", "norm", "lm_head"]},
    ),
    "tokens of a tied embedding": ({}, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 1, 500]}),
    "tokens by name": (
        {"tied": False},
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [7, 9], "lm_head": [2]}},
    ),
    "experts": ({"moe": True, "tied": False}, {"target_modules": ATTENTION, "target_parameters": EXPERTS}),
    "one parameter of the experts": ({"moe": True}, {"target_modules": ["q_proj"], "target_parameters": EXPERTS[1:2]}),
    "shared expert": ({"moe": True}, {"target_modules": ["shared_expert.up_proj", "shared_expert_gate", "in_proj_z"]}),
    "text model": (
        {"text_only": True},
        {"target_modules": TEXT, "modules_to_save": ["norm"], "model_class": "Qwen3_5ForCausalLM"},
    ),
}


def merged(base: Path, *adapters: Path, scales: tuple[float, ...] = ()) -> Checkpoint:
    return merge_adapters(open_checkpoint(base), open_adapters(adapters, scales))


def assert_equals_peft(checkpoint: Checkpoint, wanted: dict[str, Any], limit: float = 1.01) -> None:
    original = open_checkpoint(checkpoint.directory)
    for name in checkpoint.tensors:
        if name.startswith("mtp."):  # transformers leaves the MTP head out
            continue
        found, base = checkpoint.read(name), original.read(name if name in original.tensors else "embed_tokens.weight")
        assert (found.dtype, found.shape) == (base.dtype, base.shape), name
        assert peft_lora.ulps(found, wanted[name], base) <= limit, name
    if checkpoint.tied:
        np.testing.assert_array_equal(wanted["lm_head.weight"], wanted["embed_tokens.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_equal_peft(checkpoint: Make, tmp_path: Path, kind: str) -> None:
    options, config = KINDS[kind]
    base = checkpoint(**options)
    adapter = peft_lora.save_adapter(base, tmp_path / "trained", **config)
    found = merged(base, adapter)
    assert found.changes
    assert_equals_peft(found, peft_lora.merged(base, [adapter], model_class=config.get("model_class", "")))


def test_scale_counts_as_scale_of_lora(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint()
    adapter = peft_lora.save_adapter(base, tmp_path / "trained", target_modules=TEXT, use_dora=True)
    assert_equals_peft(merged(base, adapter, scales=(0.25,)), peft_lora.merged(base, [adapter], scale=0.25))


def test_adapters_are_merged_in_order(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint(tied=False)
    first = peft_lora.save_adapter(base, tmp_path / "first", seed=1, target_modules=TEXT)
    second = peft_lora.save_adapter(base, tmp_path / "second", seed=2, target_modules=ATTENTION, r=8)
    assert_equals_peft(merged(base, first, second), peft_lora.merged(base, [first, second]))


def test_dora_behind_an_adapter_has_norms_of_the_base(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint(tied=False)
    first = peft_lora.save_adapter(base, tmp_path / "first", seed=1, target_modules=TEXT)
    second = peft_lora.save_adapter(base, tmp_path / "second", seed=2, target_modules=ATTENTION, use_dora=True)
    wanted = peft_lora.merged(base, [first, second])
    found = merged(base, first, second)
    for name in found.changes:
        # PEFT takes the first adapter out of the rounded weights and merges it once more.
        difference = found.read(name).astype(np.float32) - wanted[name]
        assert np.linalg.norm(difference) < 2**-8 * np.linalg.norm(wanted[name]), name
