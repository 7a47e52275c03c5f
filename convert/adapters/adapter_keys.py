"""What a tensor of adapter_model.safetensors is: its key, taken apart.

PEFT prefixes the module's name with `base_model.model.` and leaves the adapter's name out; other programs keep it
(`lora_A.default.weight`). Wrappers of parameters (`target_parameters`) nest by `.base_layer`.

Source: peft, `utils/save_and_load.py` (`get_peft_model_state_dict`), `utils/other.py` (`ModulesToSaveWrapper`,
`TrainableTokensWrapper`).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from qwen35_gguf.convert.source_tensors import names

Role = Literal["a", "b", "shift", "magnitude", "rows", "whole", "foreign"]

A: Role = "a"
B: Role = "b"
SHIFT: Role = "shift"  # the bias of B
MAGNITUDE: Role = "magnitude"
ROWS: Role = "rows"  # of tokens
WHOLE: Role = "whole"  # replaces the base's tensor
FOREIGN: Role = "foreign"  # a part of another method

_NAME = r"(?:\.(?!weight$|bias$)[^.]+)?"  # the adapter's
_PATTERNS: tuple[tuple[re.Pattern[str], Role], ...] = (
    (re.compile(rf"(.+)\.lora_A{_NAME}\.weight"), A),
    (re.compile(rf"(.+)\.lora_B{_NAME}\.weight"), B),
    (re.compile(rf"(.+)\.lora_B{_NAME}\.bias"), SHIFT),
    (re.compile(rf"(.+)\.lora_embedding_A{_NAME}(?:\.weight)?"), A),
    (re.compile(rf"(.+)\.lora_embedding_B{_NAME}(?:\.weight)?"), B),
    (re.compile(rf"(.+)\.lora_magnitude_vector{_NAME}(?:\.weight)?"), MAGNITUDE),
    (re.compile(rf"(.+?)(?:\.token_adapter)?\.trainable_tokens_delta{_NAME}(?:\.weight)?"), ROWS),
)
# Copies from before the training.
_BEFORE = re.compile(r"\.(?:original_module|token_adapter\.base_layer|trainable_tokens_original)\b")
# Parts of other methods (LoHa, LoKr, IA3, VeRA, OFT and so on), none of which is a weight of the model.
_FOREIGN = re.compile(
    r"\.(?:lora_|hada_|lokr_|ia3_|vera_|oft_|boft_|hra_|adaption_|prompt_|ln_tuning|randlora_|shira_|fourierft_|"
    r"road_|bone_|miss_|c3a_|delora_|gralora_|trainable_tokens)"
)


# What PEFT and wrappers of the training put in front.
_PREFIX = re.compile(r"^(?:(?:module|_orig_mod|_fsdp_wrapped_module|_forward_module|base_model\.model)\.)+")


class Entry(NamedTuple):
    """A tensor of an adapter.

    Attributes:
        key: as it is stored.
        role: what it is.
        module: canonical name of what it belongs to: a module, or for `whole` a tensor.
        path: the module as PEFT's patterns see it, without the prefix.
        depth: how many wrappers are around its own.
        embedding: the factors are those of an embedding, which are transposed.

    """

    key: str
    role: Role
    module: str
    path: str
    depth: int = 0
    embedding: bool = False


def parse(key: str) -> Entry | None:
    """Take a key apart. None for a copy of the base from before the training, which does not count."""
    if _BEFORE.search(key):
        return None
    for pattern, role in _PATTERNS:
        if found := pattern.fullmatch(key):
            return _entry(key, role, found[1])
    bare = _PREFIX.sub("", key)
    return Entry(key, FOREIGN if _FOREIGN.search(key) else WHOLE, names.canonical_name(bare), bare)


def _entry(key: str, role: Role, stored: str) -> Entry:
    path = _PREFIX.sub("", stored)
    bare = path
    while bare.endswith(".base_layer"):
        bare = bare.removesuffix(".base_layer")
    module = names.canonical_name(f"{path}.weight").removesuffix(".weight")
    depth = (len(path) - len(bare)) // len(".base_layer")
    return Entry(key, role, module, bare, depth, embedding="lora_embedding_" in key)
