"""What is offered is planned on the same tensors that a conversion writes, and only what fits is offered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from oracles.paths import TINY
from qwen35_gguf.architecture import Architecture, VisionEncoder
from qwen35_gguf.architecture.family import FAMILY, PublishedModel
from qwen35_gguf.convert.plan_files import ConversionOptions, plan_conversion
from qwen35_gguf.convert.transforms import padded_width
from qwen35_gguf.offers.fitting_sizes import fitting_sizes, plan_size, recommended
from qwen35_gguf.offers.planned_headers import text_header, vision_header
from qwen35_gguf.quant.presets import find_preset
from qwen35_gguf.runtime.llama.devices import Device
from qwen35_gguf.runtime.planning.plan import Machine

pytestmark = pytest.mark.unit

GB = 10**9


@pytest.mark.parametrize("model", FAMILY, ids=lambda model: model.name)
def test_the_family_is_what_the_published_configs_state(model: PublishedModel, make_checkpoint: ModuleType) -> None:
    config = make_checkpoint.config_json(make_checkpoint.SIZES[model.name.lower()])
    assert Architecture.from_config(config) == model.text
    assert VisionEncoder.from_config(config) == model.vision


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0", "Q2_K"])
def test_a_planned_header_has_the_tensors_that_a_conversion_writes(quant: str, tmp_path: Path) -> None:
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    text, vision = plan_conversion(ConversionOptions(TINY, quant, tmp_path)).files
    architecture, encoder = Architecture.from_config(config), VisionEncoder.from_config(config)
    assert encoder is not None
    planned = text_header(text.path, architecture, find_preset(quant))
    assert [replace(one, offset=0) for one in planned.tensors] == text.infos
    assert Architecture.from_gguf(planned.metadata, planned.shapes) == architecture
    encoder = replace(encoder, intermediate_size=padded_width(encoder.intermediate_size))
    planned = vision_header(vision.path, encoder, "Q8_0")
    assert [replace(one, offset=0) for one in planned.tensors] == vision.infos
    assert VisionEncoder.from_gguf(planned.metadata) == encoder


@pytest.mark.parametrize("model", FAMILY, ids=lambda model: model.name)
def test_planned_headers_of_the_family_are_read_as_what_they_are_planned_from(model: PublishedModel) -> None:
    header = text_header(Path("a.gguf"), model.text, find_preset("Q4_K_M"))
    assert Architecture.from_gguf(header.metadata, header.shapes) == model.text


def test_what_fits_depends_on_the_memory() -> None:
    def offered(machine: Machine) -> list[tuple[str, str]]:
        return [(offer.model.name, offer.quant) for offer in fitting_sizes(machine)]

    assert offered(Machine(GB // 2)) == []
    assert offered(Machine(2 * GB))[0][0] == "0.8B"
    assert offered(Machine(12 * GB))[0] == ("9B", "Q4_K_M")
    assert offered(Machine(64 * GB))[0] == ("35B-A3B", "Q4_K_M")
    assert [name for name, _ in offered(Machine(64 * GB))] == [model.name for model in reversed(FAMILY)]
    gpu = Device("CUDA0", 24 * GB)
    assert ("27B", "Q4_K_M") in offered(Machine(8 * GB, (gpu,)))
    assert ("27B", "Q4_K_M") not in offered(Machine(8 * GB))


def test_an_offer_states_what_it_takes() -> None:
    offer = plan_size(Machine(100 * GB), FAMILY[3], "Q4_K_M")
    assert offer is not None
    assert offer.command == "qwen35 convert Qwen/Qwen3.5-9B -q Q4_K_M"
    # The table of README.md, whose files and checkpoints also have a vocabulary.
    assert offer.download == pytest.approx(19.3e9, rel=0.01)
    assert offer.file_bytes == pytest.approx(6.28e9, rel=0.01)
    assert offer.memory == pytest.approx(8.4e9, rel=0.05)


def test_the_largest_in_the_usual_preset_is_recommended() -> None:
    offers = fitting_sizes(Machine(18 * GB))
    assert offers[0].quant != "Q4_K_M"
    assert (recommended(offers).model.name, recommended(offers).quant) == ("9B", "Q4_K_M")
    assert recommended(offers[:1]) is offers[0]
