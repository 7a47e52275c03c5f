"""transformers' model of a checkpoint, whose weights are read through the tensor map.

So every checkpoint that can be converted has an oracle, also where transformers could not load it by itself: other
names, experts saved one by one, quantized weights. transformers drops the MTP head; its weights are kept beside the
model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.architecture import DENSE
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.source_tensors.parts import MTP, PREFIX, VISION, part_of
from qwen35_gguf.convert.tensor_plan import published_weights
from qwen35_gguf.errors import CheckpointError

OUTPUT, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
# Of config.json, what describes how weights are stored and not what is computed.
STORAGE = ("quantization_config", "quantization")
LONGEST_REASON = 300  # characters


@dataclass(frozen=True)
class Oracle:
    """What outputs are compared with.

    Attributes:
        model: a model of transformers in float32.
        mtp: torch tensors of the MTP head in float32, by name without `mtp.`; empty without one.
        vision: the model has a vision encoder.

    """

    model: Any
    mtp: dict[str, Any]
    vision: bool


def load_oracle(checkpoint: Checkpoint) -> Oracle:
    """Load a checkpoint into transformers.

    Raises:
        CheckpointError: its tensors do not fit the map, or transformers refuses its config.json.

    """
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    found = {name: _tensor(array) for name, array in published_weights(checkpoint)}
    vision = any(part_of(name) == VISION for name in found)
    family = "Qwen3_5" if checkpoint.arch == DENSE else "Qwen3_5Moe"
    nested = "text_config" in checkpoint.config
    config_class = getattr(transformers, f"{family}Config" if nested else f"{family}TextConfig")
    kept = _without_storage(checkpoint.config)
    if not vision:
        kept.pop("vision_config", None)
    try:
        config = config_class.from_dict(kept)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise CheckpointError(
            f"{checkpoint.directory / 'config.json'}: transformers does not accept it ({reason}); correct it, or "
            "verify with --no-parity"
        ) from None
    model_class = getattr(transformers, f"{family}{'ForConditionalGeneration' if vision else 'ForCausalLM'}")
    root = "model.language_model." if vision else "model."
    mtp = {name.removeprefix(PREFIX[MTP]): found.pop(name).float() for name in list(found) if part_of(name) == MTP}
    state = {name if name == OUTPUT else _prefixed(name, root): tensor for name, tensor in found.items()}
    state.setdefault(OUTPUT, state[root + EMBEDDING])
    model = model_class.from_pretrained(
        None,
        config=config if vision else config.get_text_config(),
        state_dict=state,
        dtype=torch.float32,
        attn_implementation="eager",
    )
    return Oracle(model.eval(), mtp, vision)


def _without_storage(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in STORAGE}
    return {key: _without_storage(value) if key == "text_config" else value for key, value in kept.items()}


def _prefixed(name: str, root: str) -> str:
    return f"model.{name}" if part_of(name) == VISION else root + name


def _tensor(array: npt.NDArray[Any]) -> Any:
    """Make a torch tensor of an array without a copy; it is only read."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of arrays that are not writable
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(np.ascontiguousarray(array))
