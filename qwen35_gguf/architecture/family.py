"""The published sizes of Qwen3.5, so that what one needs can be planned before any file of it is here."""

from __future__ import annotations

from dataclasses import dataclass

from qwen35_gguf.architecture.config import DEFAULT_INTERVAL, DENSE, MOE, layer_kinds
from qwen35_gguf.architecture.text_model import Architecture, Experts
from qwen35_gguf.architecture.vision import VisionEncoder

VOCABULARY = 248_320


@dataclass(frozen=True)
class PublishedModel:
    """A size of the family.

    Attributes:
        name: such as 9B.
        text: the text model, with its MTP head.
        vision: its vision encoder.

    """

    name: str
    text: Architecture
    vision: VisionEncoder

    @property
    def repo(self) -> str:
        """The checkpoint on the Hub."""
        return f"Qwen/Qwen3.5-{self.name}"


def _text(
    hidden: int,
    ffn: int,
    layers: int,
    heads: int,
    kv_heads: int,
    value_heads: int,
    tied: bool,
    experts: Experts | None = None,
) -> Architecture:
    return Architecture(
        name=MOE if experts else DENSE,
        layer_kinds=layer_kinds(layers, DEFAULT_INTERVAL),
        mtp_blocks=1,
        full_attention_interval=DEFAULT_INTERVAL,
        vocab_size=VOCABULARY,
        tied=tied,
        context_length=262_144,
        hidden_size=hidden,
        intermediate_size=ffn,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=256,
        linear_key_heads=16,
        linear_value_heads=value_heads,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        conv_kernel_size=4,
        experts=experts,
    )


def _vision(depth: int, hidden: int, ffn: int, heads: int, out: int) -> VisionEncoder:
    return VisionEncoder(depth, hidden, ffn, heads, out, 16, 2, 2, 2304)


# From the smallest to the largest. Source: the config.json of each.
FAMILY = (
    PublishedModel("0.8B", _text(1024, 3584, 24, 8, 2, 16, True), _vision(12, 768, 3072, 12, 1024)),
    PublishedModel("2B", _text(2048, 6144, 24, 8, 2, 16, True), _vision(24, 1024, 4096, 16, 2048)),
    PublishedModel("4B", _text(2560, 9216, 32, 16, 4, 32, True), _vision(24, 1024, 4096, 16, 2560)),
    PublishedModel("9B", _text(4096, 12288, 32, 16, 4, 32, False), _vision(27, 1152, 4304, 16, 4096)),
    PublishedModel("27B", _text(5120, 17408, 64, 24, 4, 48, False), _vision(27, 1152, 4304, 16, 5120)),
    PublishedModel(
        "35B-A3B",
        _text(2048, 0, 40, 16, 2, 32, False, Experts(256, 8, 512, 512)),
        _vision(27, 1152, 4304, 16, 2048),
    ),
)
