"""Canonical names of tensors: without the prefixes that differ between exports, and without what training added.

Published, text-only and MLX checkpoints prefix the same tensors differently. Wrappers of training libraries add
segments of their own: torch.compile, data parallelism, PEFT. Both are stripped; the second kind earns a note.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

# Segments that a wrapper adds anywhere in a name; no tensor of Qwen3.5 has one of its own by this name.
WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "data parallelism",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
    "pretrained_model": "TRL",
    "state_dict": "a training checkpoint",
    "actor": "reinforcement learning",
    "policy": "reinforcement learning",
    "base_layer": "PEFT",
}
# The copy of a module from before the training, beside the trained one: .modules_to_save.NAME.
ORIGINAL = "original_module"
TRAINED = "modules_to_save"
ROOTS = ("model", "language_model")
VISION_ROOTS = ("visual", "vision_tower", "vision_model")
# Roots, in front of a tensor's own name, that published checkpoints and plain exports of them have.
USUAL = ((), ("model",), ("language_model",), ("model", "language_model"), ("language_model", "model"))

# MLX names the stacked experts switch_mlp; some exports give them a .weight suffix that the published ones lack.
SWITCH = re.compile(r"\bmlp\.switch_mlp\.")
STACKED = re.compile(r"(mlp\.experts\.(?:gate_up_proj|gate_proj|up_proj|down_proj))\.weight$")


class Name(NamedTuple):
    """A stored name, taken apart.

    Attributes:
        canonical: `layers.0...`, `norm.weight`, `lm_head.weight`, `mtp...` or `visual...`.
        wrappers: what was stripped and is not usual, as it is written, `_orig_mod.` for example.
        superseded: a copy from before the training, which counts only if the trained tensor is absent.

    """

    canonical: str
    wrappers: tuple[str, ...] = ()
    superseded: bool = False


def canonical_name(stored: str) -> str:
    """Strip prefixes and wrappers: `model.language_model.layers.0._orig_mod.mlp...` -> `layers.0.mlp...`."""
    return take_apart(stored).canonical


def take_apart(stored: str) -> Name:
    """Find the canonical name of a tensor, and the wrappers that its stored name has."""
    segments = stored.split(".")
    wrappers: list[str] = []
    if segments[:2] == ["base_model", "model"]:
        wrappers.append("base_model.model.")
        segments = segments[2:]
    kept: list[str] = []
    superseded = False
    rest = iter(segments)
    for segment in rest:
        if segment in WRAPPERS:
            wrappers.append(f"{segment}.")
        elif segment == TRAINED:
            wrappers.append(f"{TRAINED}.{next(rest, '')}.")
        elif segment == ORIGINAL:
            wrappers.append(f"{ORIGINAL}.")
            superseded = True
        else:
            kept.append(segment)
    if not kept:
        # Nothing but wrappers wraps nothing: the name is a foreign tensor's own.
        return Name(stored)
    roots: list[str] = []
    while len(kept) > 1 and kept[0] in ROOTS:
        roots.append(kept.pop(0))
    usual = USUAL
    if kept[0] in VISION_ROOTS:
        while len(kept) > 2 and kept[1] in VISION_ROOTS:
            roots.append(kept.pop(0))
        kept[0] = VISION_ROOTS[0]
    if tuple(roots) not in usual:
        wrappers.append(".".join(roots) + ".")
    name = STACKED.sub(r"\1", SWITCH.sub("mlp.experts.", ".".join(kept)))
    return Name(name, tuple(wrappers), superseded)


def wrapper_notes(stored: Iterable[str]) -> list[str]:
    """Describe the wrappers that were stripped, one line for each kind, with an example."""
    examples: dict[str, tuple[int, str]] = {}
    for name in stored:
        for wrapper in dict.fromkeys(take_apart(name).wrappers):
            count, first = examples.get(wrapper, (0, name))
            examples[wrapper] = count + 1, first
    return [
        f"{count} tensor names have {wrapper} ({_origin(wrapper)}), which is stripped: {first} is read as "
        f"{canonical_name(first)}"
        for wrapper, (count, first) in examples.items()
    ]


def _origin(wrapper: str) -> str:
    first = wrapper.partition(".")[0]
    if first in WRAPPERS:
        return WRAPPERS[first]
    return "PEFT" if first in ("base_model", TRAINED, ORIGINAL) else "a repeated prefix"
