"""Which rotary positions count, with transformers as the oracle: the same frequencies, and the same factor on them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from oracles import llama
from qwen35_gguf.architecture import text_section
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.convert.config.rope import Rope, read_rope
from qwen35_gguf.errors import CheckpointError

PARAMETERS = {
    "rope_type": "default",
    "rope_theta": 1e7,
    "partial_rotary_factor": 0.25,
    "mrope_section": [3, 3, 2],
    "mrope_interleaved": True,
}
PLAIN = {"rope_theta": 5e6, "mrope_section": [4, 2, 2]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
OLD_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}

# What is in text_config, what at the top level, and how many notes there are. None removes an entry.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "as published": ({}, {}, 0),
    "rope_scaling with everything": ({"rope_scaling": PARAMETERS | YARN}, {}, 1),
    "rope_scaling equal to rope_parameters": ({"rope_scaling": PARAMETERS}, {}, 0),
    "rope_scaling without theta": ({"rope_scaling": YARN}, {}, 1),
    "an old rope_scaling": ({"rope_scaling": OLD_YARN, "rope_theta": 1e6}, {}, 1),
    "an old rope_scaling alone": ({"rope_scaling": OLD_YARN, "rope_parameters": None, "rope_theta": 1e6}, {}, 0),
    "rope_scaling linear": ({"rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 1e6}}, {}, 1),
    "an empty rope_scaling": ({"rope_scaling": {}}, {}, 0),
    "a null rope_scaling": ({"rope_scaling": None}, {}, 0),
    "rope_type before type": ({"rope_parameters": PARAMETERS | YARN | {"type": "linear"}}, {}, 0),
    "type alone": ({"rope_parameters": {"rope_theta": 1e7} | OLD_YARN}, {}, 0),
    "theta inside before theta beside": ({"rope_theta": 1e4}, {}, 0),
    "theta beside": ({"rope_parameters": {"mrope_section": [3, 3, 2]}, "rope_theta": 1e6}, {}, 0),
    "share inside before share beside": ({"partial_rotary_factor": 0.5}, {}, 0),
    "share beside": ({"rope_parameters": PLAIN, "partial_rotary_factor": 0.5}, {}, 0),
    "no share": ({"rope_parameters": PLAIN}, {}, 0),
    "YaRN": ({"rope_parameters": PARAMETERS | YARN}, {}, 0),
    "YaRN without its original length": (
        {"rope_parameters": PARAMETERS | {"rope_type": "yarn", "factor": 2.0}},
        {},
        0,
    ),
    "the original length beside": (
        {"rope_parameters": PARAMETERS | YARN, "original_max_position_embeddings": 2048},
        {},
        0,
    ),
    "the original length beside only": (
        {
            "rope_parameters": PARAMETERS | {"rope_type": "yarn", "factor": 2.0},
            "original_max_position_embeddings": 2048,
        },
        {},
        0,
    ),
    "attention_factor": ({"rope_parameters": PARAMETERS | YARN | {"attention_factor": 1.5}}, {}, 0),
    "mscale": ({"rope_parameters": PARAMETERS | YARN | {"mscale": 2.0, "mscale_all_dim": 0.5}}, {}, 0),
    "mscale alone": ({"rope_parameters": PARAMETERS | YARN | {"mscale": 2.0}}, {}, 0),
    "attention_factor before mscale": (
        {"rope_parameters": PARAMETERS | YARN | {"attention_factor": 1.25, "mscale": 2.0, "mscale_all_dim": 0.5}},
        {},
        0,
    ),
    "betas": ({"rope_parameters": PARAMETERS | YARN | {"beta_fast": 16, "beta_slow": 2}}, {}, 0),
    "rope_scaling at the top level": ({}, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, 1),
    "theta at the top level": ({}, {"rope_theta": 1e3}, 0),
}


def edited(source: Path, target: Path, text: dict[str, Any], top: dict[str, Any]) -> Path:
    directory = Path(shutil.copytree(source, target / "checkpoint"))
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for part, changes in ((config["text_config"], text), (config, top)):
        part.update(changes)
        for key in [key for key, value in changes.items() if value is None and key != "rope_scaling"]:
            del part[key]
    path.write_text(json.dumps(config))
    return directory


def rope_of(directory: Path) -> Rope:
    return read_rope(text_section(json.loads((directory / "config.json").read_text())))


def frequencies(rope: Rope) -> tuple[np.ndarray, float]:
    """What llama.cpp computes of the metadata: the frequencies of ggml_rope_yarn, and the factor on the result."""
    pairs = np.arange(0, rope.dimensions, 2, dtype=np.float64)
    plain = rope.theta ** (-pairs / rope.dimensions)
    if rope.scaling is None:
        return plain, 1.0
    assert rope.factor is not None
    scaled = plain / rope.factor
    if rope.scaling == "linear":
        return scaled, 1.0
    assert rope.original_context is not None

    def dimension(rotations: float) -> float:
        turns = rope.original_context / (rotations * 2 * math.pi)
        return rope.dimensions * math.log(turns) / (2 * math.log(rope.theta))

    low = max(0, math.floor(dimension(rope.beta_fast or 32)))
    high = min(rope.dimensions - 1, math.ceil(dimension(rope.beta_slow or 1)))
    ramp = np.clip((pairs / 2 - low) / max(0.001, high - low), 0, 1)
    return scaled * ramp + plain * (1 - ramp), (1 + 0.1 * math.log(rope.factor)) * (rope.attention_factor or 1.0)


@pytest.mark.filterwarnings("ignore:.*rope_scaling.* is deprecated:FutureWarning")
@pytest.mark.parametrize(("text", "top", "notes"), CASES.values(), ids=CASES.keys())
def test_the_frequencies_are_those_of_transformers(
    checkpoint: Callable[..., Path], tmp_path: Path, text: dict[str, Any], top: dict[str, Any], notes: int
) -> None:
    directory = edited(checkpoint(), tmp_path, text, top)
    rope = rope_of(directory)
    config = transformers.AutoConfig.from_pretrained(directory).get_text_config()
    rotary = transformers.models.qwen3_5.modeling_qwen3_5.Qwen3_5TextRotaryEmbedding
    compute = ROPE_INIT_FUNCTIONS.get(config.rope_parameters["rope_type"], rotary.compute_default_rope_parameters)
    reference, factor = compute(config)
    found, found_factor = frequencies(rope)
    np.testing.assert_allclose(found, reference.numpy(), rtol=1e-5)
    assert found_factor == pytest.approx(factor)
    assert list(rope.sections[:3]) == rotary(config).mrope_section
    assert len(rope.notes) == notes
    assert all("\n" not in note for note in rope.notes)


def test_the_note_names_both_places_and_the_theta_that_is_lost(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    (note,) = rope_of(edited(checkpoint(), tmp_path, {"rope_scaling": YARN}, {})).notes
    assert "text_config.rope_scaling and text_config.rope_parameters" in note
    assert "10000 is taken instead of the 1e+07" in note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"rope_parameters": PARAMETERS | {"rope_type": "llama3"}}, r'rope_parameters\.rope_type is "llama3"; must be'),
        ({"rope_parameters": PARAMETERS | {"rope_type": "yarn"}}, r"rope_parameters\.factor is missing"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, r'text_config\.rope_scaling\.type is "dynamic"'),
        (
            {"rope_parameters": PARAMETERS | {"partial_rotary_factor": 0.24}},
            r"partial_rotary_factor is 0\.24; must be a",
        ),
        ({"rope_parameters": PLAIN, "partial_rotary_factor": 2}, r"text_config\.partial_rotary_factor is 2; must be a"),
        ({"rope_parameters": PARAMETERS | {"mrope_interleaved": False}}, "mrope_interleaved is false; must be true"),
        ({"rope_parameters": PARAMETERS | {"mrope_section": []}}, r"mrope_section is \[\]; must be a list of"),
        ({"rope_parameters": PARAMETERS | {"mrope_section": [1, "x"]}}, r'mrope_section\[1\] is "x"; must be a count'),
        ({"rope_parameters": PARAMETERS | YARN | {"truncate": False}}, "truncate is false; must be true"),
        (
            {"rope_parameters": PARAMETERS | YARN | {"extrapolation_factor": 0.5}},
            "extrapolation_factor is 0.5; must be 1",
        ),
        ({"rope_parameters": PARAMETERS | YARN | {"factor": float("nan")}}, "factor is NaN; must be a positive number"),
        ({"rope_parameters": -1}, r"text_config\.rope_parameters is -1; must be an object"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    checkpoint: Callable[..., Path], tmp_path: Path, text: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        rope_of(edited(checkpoint(), tmp_path, text, {}))


def test_an_attention_factor_gives_the_logits_of_transformers(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    scaled = {"rope_scaling": PARAMETERS | YARN | {"attention_factor": 1.5, "original_max_position_embeddings": 64}}
    source = edited(checkpoint(seed=1, mtp=False), tmp_path, scaled, {})
    path = hf_to_gguf.convert(source, "F32", tmp_path, vision=False)[0]
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = np.random.default_rng(0).integers(0, 2033, 200).tolist()
    with torch.no_grad():
        reference = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
    with llama.loaded(path) as loaded, llama.context(loaded, 512) as ctx:
        found = llama.decode(ctx, tokens, 0, reference.shape[1])
    assert llama.mean_kl(reference, found) < 1e-7
