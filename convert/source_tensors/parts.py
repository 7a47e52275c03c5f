"""The parts of a model, each of which can be left out: main model, MTP head, vision encoder.

What is left out is neither needed, nor checked, nor downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Part = Literal["text", "mtp", "vision"]

TEXT: Part = "text"
MTP: Part = "mtp"
VISION: Part = "vision"
PREFIX = {MTP: "mtp.", VISION: "visual."}
# The option that leaves a part out.
OPTION = {MTP: "--no-mtp", VISION: "--no-vision"}
TITLE = {TEXT: "main model", MTP: "MTP head", VISION: "vision encoder"}


@dataclass(frozen=True)
class Parts:
    """Which parts of a checkpoint are wanted.

    Attributes:
        text: the main model.
        mtp: the multi-token-prediction head.
        vision: the vision encoder.

    """

    text: bool = True
    mtp: bool = True
    vision: bool = True

    def wants(self, name: str) -> bool:
        """Tell whether the tensor with this canonical name is wanted."""
        return {TEXT: self.text, MTP: self.mtp, VISION: self.vision}[part_of(name)]

    def __and__(self, other: Parts) -> Parts:
        """Return what both want."""
        return Parts(self.text and other.text, self.mtp and other.mtp, self.vision and other.vision)

    def of_config(self, config: Mapping[str, Any]) -> Parts:
        """Return the parts that are wanted of a model with this config.json: a text model has no vision encoder."""
        return replace(self, vision=self.vision and not is_text_model(config))


ALL = Parts()


def part_of(name: str) -> Part:
    """Tell to which part the tensor with this canonical name belongs."""
    return next((part for part, prefix in PREFIX.items() if name.startswith(prefix)), TEXT)


def is_text_model(config: Mapping[str, Any]) -> bool:
    """Tell whether config.json is of a class without a vision encoder, and describes none.

    transformers ignores the vision encoder's tensors then (`_keys_to_ignore_on_load_unexpected` of Qwen3_5ForCausalLM).
    """
    if config.get("vision_config") is not None:
        return False
    named = config.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    return str(config.get("model_type")).endswith("_text") or any(name.endswith("ForCausalLM") for name in names)
