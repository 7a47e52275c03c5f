"""PEFT adapters written by hand, so that their tests need neither torch nor PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

PREFIX = "base_model.model.model.language_model."


def write_adapter(folder: Path, tensors: Mapping[str, Any], **config: Any) -> Path:
    """Write a folder as PEFT does: adapter_config.json of a LoRA of rank 4 and alpha 8, changed by `config`."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "tiny", "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(known | config))
    save_file(
        {name: np.ascontiguousarray(values) for name, values in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def low_rank(
    name: str, rows: int, columns: int, *, rank: int = 4, seed: int = 0, prefix: str = PREFIX
) -> dict[str, Any]:
    """Return random factors of a module."""
    rng = np.random.default_rng(seed)
    return {
        f"{prefix}{name}.lora_A.weight": rng.normal(0, 0.1, (rank, columns)).astype(np.float32),
        f"{prefix}{name}.lora_B.weight": rng.normal(0, 0.1, (rows, rank)).astype(np.float32),
    }
