"""Which published sizes fit this machine's memory, by the plan that loading uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qwen35_gguf.architecture.family import FAMILY, PublishedModel
from qwen35_gguf.convert.transforms import padded_width
from qwen35_gguf.offers.planned_headers import checkpoint_bytes, text_header, vision_header
from qwen35_gguf.quant.presets import find_preset
from qwen35_gguf.runtime.planning.placement import place
from qwen35_gguf.runtime.planning.plan import Machine
from qwen35_gguf.runtime.settings import Settings, memory_request

QUANTS = ("Q4_K_M", "Q3_K_S", "Q2_K")  # the first that fits is offered
ENCODER = "Q8_0"
CONTEXT = 16384


@dataclass(frozen=True)
class SizeOffer:
    """A size of the family that fits, and what it takes.

    Attributes:
        model: which one.
        quant: its preset.
        file_bytes: of the text model and the vision encoder.
        memory: planned bytes of RAM and of other devices, with 16,384 tokens of context.
        download: bytes of the checkpoint.

    """

    model: PublishedModel
    quant: str
    file_bytes: int
    memory: int
    download: int

    @property
    def command(self) -> str:
        """What gets it."""
        return f"qwen35 convert {self.model.repo} -q {self.quant}"


def fitting_sizes(
    machine: Machine, family: Sequence[PublishedModel] = FAMILY, quants: Sequence[str] = QUANTS
) -> list[SizeOffer]:
    """Return the sizes that fit a machine, the largest first; each in the first of `quants` that fits."""
    return list(_offers(machine, family, quants))


def _offers(machine: Machine, family: Sequence[PublishedModel], quants: Sequence[str]) -> Iterator[SizeOffer]:
    for model in reversed(family):
        for quant in quants:
            if offer := plan_size(machine, model, quant):
                yield offer
                break


def plan_size(machine: Machine, model: PublishedModel, quant: str) -> SizeOffer | None:
    """Plan a size in a preset, with drafts and images; None if it does not fit."""
    text = text_header(Path(f"Qwen3.5-{model.name}-{quant}.gguf"), model.text, find_preset(quant))
    encoder = replace(model.vision, intermediate_size=padded_width(model.vision.intermediate_size))
    vision = vision_header(Path(f"mmproj-{text.path.name}"), encoder, ENCODER)
    request = memory_request(Settings.default(), "auto", n_ctx=CONTEXT, mmproj=vision)
    plan, shortage = place(text, machine, request)
    if shortage:
        return None
    return SizeOffer(
        model,
        quant,
        text.size + vision.size,
        sum(usage.used for usage in plan.usage),
        checkpoint_bytes(model.text, model.vision),
    )


def recommended(offers: Sequence[SizeOffer]) -> SizeOffer:
    """Choose among offers: the largest size in the usual preset; if none fits in that, the largest.

    Below four bits a smaller size with more bits answers about as well, and faster.
    """
    usual = [offer for offer in offers if offer.quant == QUANTS[0]]
    return (usual or list(offers))[0]
