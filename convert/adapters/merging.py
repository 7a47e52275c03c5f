"""Merge adapters into a checkpoint: its tensors are read with the updates, one at a time, while it is converted."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from qwen35_gguf.architecture import Architecture
from qwen35_gguf.convert.adapters.adapter_folder import Adapter
from qwen35_gguf.convert.adapters.fit import Base, fit
from qwen35_gguf.convert.adapters.updates import Update, Whole, merge
from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.source_tensors.tied import EMBEDDING, OUTPUT
from qwen35_gguf.convert.tensor_map import text_rules

# What re-uploads of a model add to its name.
REUPLOAD = re.compile(r"(?:-unsloth)?(?:-(?:bnb-(?:4|8)bit|fp8|gptq\S*|awq\S*|bf16))?$", re.I)


def merge_adapters(checkpoint: Checkpoint, adapters: Sequence[Adapter], base_name: str = "") -> Checkpoint:
    """Return the checkpoint whose tensors have the adapters merged, in order, when they are read.

    Args:
        checkpoint: the base.
        adapters: as `open_adapters` gives them.
        base_name: the base's id on the Hub, if it has one.

    Raises:
        AdapterError: an adapter does not fit the base.

    """
    if not adapters:
        return checkpoint
    where = str(checkpoint.directory)
    architecture = Architecture.from_config(checkpoint.config, str(checkpoint.directory / "config.json"))
    tensors = dict(checkpoint.tensors)
    tied, notes = checkpoint.tied, list(checkpoint.notes)
    changes: dict[str, list[Update]] = defaultdict(list)
    for adapter in adapters:
        shapes = {name: stored.shape for name, stored in tensors.items()}
        fitted = fit(adapter, Base(where, shapes, architecture, tied, checkpoint.parts.wants))
        if fitted.unties:
            tied, tensors[OUTPUT] = False, tensors[EMBEDDING]
            changes[OUTPUT] = list(changes[EMBEDDING])
            notes.append(f"{adapter.name}: trained embedding and output apart: they are no longer tied")
        for name, updates in fitted.updates.items():
            changes[name] += updates
        notes += [*fitted.notes, *_base_note(adapter, base_name or checkpoint.directory.resolve().name)]
        notes.append(_summary(adapter, fitted.updates))
    if checkpoint.norms_shifted:
        _shift_norms(changes, architecture)
    return replace(
        checkpoint,
        tensors=tensors,
        tied=tied,
        notes=notes,
        changes={name: functools.partial(merge, updates=updates) for name, updates in changes.items() if updates},
        origin=(*checkpoint.origin, *(f"adapter {adapter.sha256} {adapter.scale!r}" for adapter in adapters)),
    )


def _shift_norms(changes: dict[str, list[Update]], architecture: Architecture) -> None:
    """Add the 1 to whole RMSNorm weights of an adapter, where the base has it added already."""
    shifted = {source for rule, _, source in text_rules(architecture) if "plus_one" in rule.operations}
    for name in shifted & changes.keys():
        changes[name] = [Whole(u.key, u.values.astype("float32") + 1) for u in changes[name] if isinstance(u, Whole)]


def _summary(adapter: Adapter, updates: dict[str, list[Update]]) -> str:
    scale = f", scaled by {adapter.scale:g}" if adapter.scale != 1 else ""
    return f"{adapter.name}: merged into {len(updates)} tensors{scale}"


def _base_note(adapter: Adapter, base: str) -> list[str]:
    trained = adapter.config.base
    known, given = (REUPLOAD.sub("", re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()) for name in (trained, base))
    if not trained or known == given:
        return []
    return [f"{adapter.name}: was trained on {trained}, and is merged into {base}"]
