"""A checkpoint that does not fit is one line: what is missing, what is unknown, and the likeliest reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs import saved_tensors
from inputs.saved_tensors import Tensors, edit_json
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.tensor_plan import plan_tensors
from qwen35_gguf.errors import CheckpointError

pytestmark = pytest.mark.unit

Factory = Callable[..., Path]
Change = Callable[[Tensors], Tensors | None]
MAIN = "model.language_model."


def renamed(pattern: str, replacement: str) -> Change:
    return lambda tensors: {re.sub(pattern, replacement, name): array for name, array in tensors.items()}


def with_lora(tensors: Tensors) -> Tensors:
    base = "base_model.model."
    wrapped = {base + name.replace("q_proj.", "q_proj.base_layer."): array for name, array in tensors.items()}
    lora = np.zeros((4, 256), np.float32)
    return wrapped | {f"{base}{MAIN}layers.3.self_attn.q_proj.lora_A.default.weight": lora}


def without(pattern: str) -> Change:
    return lambda tensors: {name: array for name, array in tensors.items() if not re.search(pattern, name)}


def also(name: str) -> Change:
    return lambda tensors: tensors | {name: np.zeros((1, 256), np.float32)}


def text_config(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["text_config"].update(changes)


MISFITS: dict[str, tuple[Change, Callable[[dict[str, Any]], object] | None, list[str]]] = {
    "an adapter that was not merged": (
        with_lora,
        None,
        [f"base_model.model.{MAIN}layers.3.self_attn.q_proj.lora_A.default.weight", "--adapter", "merge_and_unload"],
    ),
    "an unknown prefix": (
        renamed("^model.language_model.", "transformer.h."),
        None,
        ["first embed_tokens.weight (for token_embd.weight)", "first transformer.h.", "unknown prefix transformer.h."],
    ),
    "flat parameters of FSDP": (
        lambda tensors: {"_fsdp_wrapped_module._flat_param": np.zeros(8, np.float32)} | without("layers")(tensors),  # type: ignore[operator]
        None,
        ["first layers.0.", "first _fsdp_wrapped_module._flat_param", "FullStateDictConfig"],
    ),
    "Qwen3-Next": (
        renamed("in_proj_qkv", "in_proj_qkvz"),
        None,
        [
            "first layers.0.linear_attn.in_proj_qkv.weight",
            f"first {MAIN}layers.0.linear_attn.in_proj_qkvz",
            "Qwen3-Next",
        ],
    ),
    "fewer layers in config.json": (
        without("^$"),
        text_config(num_hidden_layers=3, layer_types=["linear_attention"] * 3),
        [f"first {MAIN}layers.3.", "the weights have 4 layers", "num_hidden_layers: 3"],
    ),
    "more layers in config.json": (
        without("^$"),
        text_config(num_hidden_layers=8, layer_types=None),
        ["first layers.4.input_layernorm.weight", "no tensor of 4 layers, first layers.4", "num_hidden_layers: 8"],
    ),
    "another pattern of layers": (
        without("^$"),
        text_config(layer_types=["full_attention"] + ["linear_attention"] * 3),
        ["layers.0 has linear_attn where config.json gives self_attn", "layer_types"],
    ),
    "an MTP head without its norm": (
        without("mtp.norm"),
        None,
        ["1 tensors are missing, first mtp.norm.weight (for blk.4.nextn.shared_head_norm.weight)", "--no-mtp"],
    ),
    "an MTP head without its layer": (without("mtp.layers"), None, ["first mtp.layers.0.", "--no-mtp"]),
    "an unknown tensor in the MTP head": (also("mtp.gate.weight"), None, ["first mtp.gate.weight", "--no-mtp"]),
    "half a vision encoder": (
        without("visual.blocks.1"),
        None,
        ["first visual.blocks.1.norm1.weight (for v.blk.1.ln1.weight)", "--no-vision"],
    ),
    "a reward model": (also("score.weight"), None, ["1 tensors are unknown", "first score.weight", "reward"]),
    "a value head": (also("v_head.summary.weight"), None, ["first v_head.summary.weight", "reward"]),
    "no output matrix": (
        without("lm_head"),
        lambda c: (c.update(tie_word_embeddings=False), c["text_config"].update(tie_word_embeddings=False)),
        ["first lm_head.weight (for output.weight)", "tie_word_embeddings: false", "save the whole"],
    ),
    "the output matrix alone, and not tied": (
        lambda tensors: {re.sub(r".*embed_tokens", "lm_head", name): array for name, array in tensors.items()},
        lambda c: (c.update(tie_word_embeddings=False), c["text_config"].update(tie_word_embeddings=False)),
        ["first embed_tokens.weight (for token_embd.weight)", "lm_head.weight", "tie_word_embeddings: true"],
    ),
    "an unknown prefix around a wrapper": (
        renamed("^model.language_model.", "wrap.module.model."),
        None,
        ["first embed_tokens.weight", "unknown prefix wrap.module.model."],
    ),
    "scales without quantization_config": (
        also(f"{MAIN}layers.0.mlp.up_proj.scales"),
        None,
        [f"first {MAIN}layers.0.mlp.up_proj.scales", "quantized weights", "quantization_config"],
    ),
    "something else": (also("extra"), None, ["1 tensors are unknown to the qwen35 map, first extra", "plain Qwen3.5"]),
    "one tensor lost": (
        without(r"layers.2.mlp.up_proj"),
        None,
        ["1 tensors are missing, first layers.2.mlp.up_proj.weight (for blk.2.ffn_up.weight)", "incomplete"],
    ),
    "one tensor misspelled": (
        renamed(r"layers.2.mlp.up_proj", "layers.2.mlp.upproj"),
        None,
        ["first layers.2.mlp.up_proj.weight", f"first {MAIN}layers.2.mlp.upproj.weight", "names are not those"],
    ),
}


def line_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        plan_tensors(open_checkpoint(folder))
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(("change", "config", "words"), MISFITS.values(), ids=MISFITS.keys())
def test_the_line_names_both_sides_and_the_reason(
    checkpoint: Factory,
    tmp_path: Path,
    change: Change,
    config: Callable[[dict[str, Any]], object] | None,
    words: list[str],
) -> None:
    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", change)
    if config:
        edit_json(folder / "config.json", config)
    line = line_of(folder)
    assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize("moe", [False, True])
def test_a_dense_config_for_experts_and_the_reverse(checkpoint: Factory, tmp_path: Path, moe: bool) -> None:
    folder = saved_tensors.changed(checkpoint(moe=moe, vision=False), tmp_path / "in", lambda tensors: tensors)
    other = (checkpoint(moe=not moe, vision=False) / "config.json").read_text()
    (folder / "config.json").write_text(other)
    line = line_of(folder)
    assert "are missing, first layers.0.mlp." in line
    assert f"are unknown to the qwen35{'' if moe else 'moe'} map, first {MAIN}layers.0.mlp." in line
    assert ("of a mixture of experts, and config.json of a dense" in line) == moe


SHAPES: dict[str, tuple[Callable[[saved_tensors.Array], saved_tensors.Array], str]] = {
    "ZeRO-3 placeholder": (lambda array: array[:0], "without gathering"),
    "flattened": (lambda array: array.reshape(-1), "without gathering"),
    "transposed": (lambda array: array.T, "transposed"),
    "cut": (lambda array: array[:-1], "another model"),
}


@pytest.mark.parametrize(("change", "reason"), SHAPES.values(), ids=SHAPES.keys())
def test_a_shape_that_differs_has_a_reason(
    checkpoint: Factory, tmp_path: Path, change: Callable[[saved_tensors.Array], saved_tensors.Array], reason: str
) -> None:
    name = f"{MAIN}layers.0.mlp.down_proj.weight"
    folder = saved_tensors.changed(checkpoint(), tmp_path / "in", lambda t: t | {name: change(t[name])})
    line = line_of(folder)
    assert name in line
    assert reason in line
