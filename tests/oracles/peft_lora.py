"""PEFT as the oracle of merges: adapters with random weights, saved as training saves them, and what PEFT merges."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

from qwen35_gguf.convert.source_tensors.names import canonical_name

Array = Any  # float32


def save_adapter(base: Path, folder: Path, *, seed: int = 0, model_class: str = "", **config: Any) -> Path:
    """Make an adapter whose trained values are random, and save it with PEFT.

    Args:
        base: the checkpoint.
        folder: of the adapter.
        seed: of the values.
        model_class: of transformers; by default that of config.json.
        config: of `peft.LoraConfig`; rank 4 and alpha 8 by default.

    """
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(load(base, model_class), peft.LoraConfig(**{"r": 4, "lora_alpha": 8} | config))
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                values = parameter.data + 0.1 * noise if "magnitude" in name else 0.1 * noise
                parameter.data = values.to(parameter.dtype)
        wrapped.save_pretrained(folder)
    return folder


def merged(base: Path, folders: list[Path], *, scale: float = 1.0, model_class: str = "") -> dict[str, Array]:
    """Load adapters from their folders, merge them with PEFT, and return the weights by canonical name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weights(merged_model(base, folders, scale=scale, model_class=model_class))


def merged_model(base: Path, folders: list[Path], *, scale: float = 1.0, model_class: str = "") -> Any:
    """Load adapters from their folders and merge them with PEFT, each scaled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(load(base, model_class), folders[0], adapter_name="0")
        for number, folder in enumerate(folders[1:], 1):
            wrapped.load_adapter(folder, adapter_name=str(number))
        for module in wrapped.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.scaling = {name: scale * factor for name, factor in module.scaling.items()}
        if len(folders) > 1:
            wrapped.base_model.set_adapter([str(number) for number in range(len(folders))])
        return wrapped.merge_and_unload()


def weights(model: Any) -> dict[str, Array]:
    """Return the weights of a model by canonical name, in float32."""
    return {canonical_name(name): tensor.float().numpy() for name, tensor in model.state_dict().items()}


def load(base: Path, model_class: str = "") -> Any:
    """Load a checkpoint in BF16."""
    named = model_class or transformers.AutoConfig.from_pretrained(base).architectures[0]
    return getattr(transformers, named).from_pretrained(base, dtype=torch.bfloat16)


def ulps(found: Array, wanted: Array, base: Array) -> float:
    """Return the largest difference in units of BF16's last place, of the base, the result or what was added."""
    old = base.astype(np.float32)
    size = np.maximum(np.maximum(np.abs(wanted), np.abs(old)), np.abs(wanted - old))
    step = np.exp2(np.floor(np.log2(np.maximum(size, 1e-30))) - 7)
    return float((np.abs(found.astype(np.float32) - wanted) / step).max())
