"""A GGUF LoRA on a GGUF of the base computes what the merged file computes, and what PEFT computes in transformers."""

from __future__ import annotations

import ctypes
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("peft", reason="peft is not installed")

import llama_cpp
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from inputs.adapters import low_rank, write_adapter
from oracles import llama, peft_lora
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.convert.adapters.adapter_gguf import convert_adapter
from qwen35_gguf.errors import AdapterError, OutputError
from qwen35_gguf.gguf_file.reader import read_header

Make = Callable[..., Path]
TOKENS = np.random.default_rng(0).integers(0, 2033, 96).tolist()
TEXT = ["q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"]
FFN = ["gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "every matrix": ({"tied": False}, {"target_modules": [*TEXT, *FFN, "embed_tokens", "lm_head"]}),
    "rslora with patterns": (
        {"value_heads_per_key": 3},
        {
            "target_modules": [*TEXT, *FFN],
            "use_rslora": True,
            "rank_pattern": {"out_proj": 2},
            "alpha_pattern": {"z": 1},
        },
    ),
    "experts": (
        {"moe": True, "tied": False},
        {"target_modules": [*TEXT, "shared_expert.up_proj", "shared_expert_gate"], "target_parameters": EXPERTS},
    ),
}


def float32_copy(base: Path, folder: Path) -> Path:
    """Copy a checkpoint with its weights in float32, so that merged weights are not rounded."""
    shutil.copytree(base, folder)
    for path in folder.glob("*.safetensors"):
        save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    return folder


def logits_with_adapter(gguf: Path, adapter: Path, scale: float = 1.0) -> Any:
    with llama.loaded(gguf) as model:
        loaded = llama_cpp.llama_adapter_lora_init(model, str(adapter).encode())
        assert loaded
        with llama.context(model, len(TOKENS)) as ctx:
            llama_cpp.llama_set_adapters_lora(ctx, (type(loaded) * 1)(loaded), 1, (ctypes.c_float * 1)(scale))
            vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
            return llama.decode(ctx, TOKENS, 0, vocab)


@torch.no_grad()
def peft_logits(base: Path, adapter: Path) -> Any:
    """Compute with transformers and the adapter beside the weights, not merged."""
    name = transformers.AutoConfig.from_pretrained(base).architectures[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, name).from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        wrapped = peft.PeftModel.from_pretrained(model, adapter).eval()
    return wrapped(input_ids=torch.tensor([TOKENS])).logits[0].numpy()


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_merged_weights_and_peft(checkpoint: Make, tmp_path: Path, case: str) -> None:
    options, config = CASES[case]
    base = float32_copy(checkpoint(vision=False, **options), tmp_path / "base")
    adapter = peft_lora.save_adapter(base, tmp_path / "trained", **config)
    (gguf,) = hf_to_gguf.convert(base, "F32", tmp_path / "out")
    (merged,) = hf_to_gguf.convert(base, "F32", tmp_path / "out", adapters=[adapter])
    found = logits_with_adapter(gguf, convert_adapter(adapter, base, tmp_path / "lora.gguf"))
    without = llama.logits(gguf, TOKENS)
    assert llama.mean_kl(without, found) > 1e-3  # it does something
    assert llama.mean_kl(llama.logits(merged, TOKENS), found) < 1e-7
    assert llama.mean_kl(peft_logits(base, adapter), found) < 1e-7


@pytest.mark.parametrize(("type_", "limit"), [("F16", 1e-5), ("BF16", 1e-3), ("Q8_0", 1e-3)])
def test_types_are_close(checkpoint: Make, tmp_path: Path, type_: str, limit: float) -> None:
    base = checkpoint(vision=False)
    tensors = low_rank("layers.3.self_attn.o_proj", 256, 256) | low_rank("layers.0.linear_attn.out_proj", 256, 512)
    adapter = write_adapter(tmp_path / "a", tensors)
    (gguf,) = hf_to_gguf.convert(base, "F32", tmp_path)
    exact = logits_with_adapter(gguf, convert_adapter(adapter, base, tmp_path / "exact.gguf"))
    found = logits_with_adapter(gguf, convert_adapter(adapter, base, tmp_path / "found.gguf", type_))
    assert llama.mean_kl(exact, found) < limit


def test_base_is_a_directory_its_configuration_or_a_gguf(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint(tied=False, vision=False)
    adapter = write_adapter(tmp_path / "a", low_rank("lm_head", 2048, 256, prefix="base_model.model."))
    (tmp_path / "bare").mkdir()
    shutil.copy(base / "config.json", tmp_path / "bare")
    (gguf,) = hf_to_gguf.convert(base, "Q8_0", tmp_path)
    written = []
    for number, one in enumerate((base, tmp_path / "bare", tmp_path / "bare" / "config.json", gguf)):
        written.append(convert_adapter(adapter, one, tmp_path / f"{number}.gguf"))
        assert read_header(written[-1]).shapes == {
            "output.weight.lora_a": (4, 256),
            "output.weight.lora_b": (2048, 4),
        }


def test_metadata_are_those_of_an_adapter(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint(vision=False)
    tensors = low_rank("layers.3.self_attn.o_proj", 256, 256)
    adapter = write_adapter(tmp_path / "poet", tensors, base_model_name_or_path="Qwen/Qwen3.5-0.8B")
    metadata = read_header(convert_adapter(adapter, base, tmp_path / "a.gguf", "F16")).metadata
    wanted = {
        "general.architecture": "qwen35",
        "general.type": "adapter",
        "general.name": "poet",
        "general.base_model.count": 1,
        "general.base_model.0.name": "Qwen3.5 0.8B",
        "general.base_model.0.organization": "Qwen",
        "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen3.5-0.8B",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    assert {key: metadata[key] for key in wanted} == wanted


def test_nothing_is_replaced_or_left_behind(checkpoint: Make, tmp_path: Path) -> None:
    base = checkpoint()
    adapter = write_adapter(tmp_path / "a", low_rank("layers.3.self_attn.o_proj", 256, 256))
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        convert_adapter(adapter, base, out)
    assert out.read_text() == "mine"
    vision = write_adapter(tmp_path / "v", low_rank("visual.blocks.0.attn.proj", 128, 128, prefix="base_model.model."))
    with pytest.raises(AdapterError, match=r"visual\.blocks\.0\.attn\.proj.*vision encoder"):
        convert_adapter(vision, base, tmp_path / "new" / "v.gguf")
    assert not (tmp_path / "new").exists()
