"""Every key that transformers can write for these models is classified, and published configurations pass."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from qwen35_gguf.convert.config import known_keys
from qwen35_gguf.convert.config.check import check_text, check_vision

CLASSES = {
    "qwen3_5": transformers.Qwen3_5Config,
    "qwen3_5_text": transformers.Qwen3_5TextConfig,
    "qwen3_5_moe": transformers.Qwen3_5MoeConfig,
    "qwen3_5_moe_text": transformers.Qwen3_5MoeTextConfig,
}


def keys_of(kind: type[transformers.PreTrainedConfig]) -> set[str]:
    """All keys of a configuration class: what it serializes, its fields, and its deprecated names."""
    serialized = json.loads(kind().to_json_string(use_diff=False))
    return set(serialized) | {field.name for field in dataclasses.fields(kind)}


def known(read: frozenset[str], harmless: dict[str, frozenset[str]], limited: dict[str, Any]) -> set[str]:
    return set(read.union(*harmless.values())) | set(limited)


TEXT = known(known_keys.READ, dict(known_keys.HARMLESS), dict(known_keys.LIMITED))
VISION = known(
    known_keys.READ_VISION,
    {**known_keys.HARMLESS, **known_keys.HARMLESS_VISION},
    dict(known_keys.LIMITED_VISION),
)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_every_key_of_transformers_is_classified(kind: type[transformers.PreTrainedConfig]) -> None:
    assert keys_of(kind) - TEXT == set()
    for part, found in kind.sub_configs.items():
        assert keys_of(found) - (VISION if part == "vision_config" else TEXT) == set()


def test_every_entry_of_a_generation_config_is_classified() -> None:
    assert set(transformers.GenerationConfig().to_dict()) - TEXT == set()


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("use_diff", [True, False])
def test_what_transformers_saves_passes(kind: type[transformers.PreTrainedConfig], use_diff: bool) -> None:
    sizes = {"num_attention_heads": 16, "num_key_value_heads": 2}
    made = kind(text_config=sizes) if kind.sub_configs else kind(**sizes)
    config = json.loads(made.to_json_string(use_diff=use_diff))
    if use_diff:  # the diff leaves out what equals the defaults; a conversion needs these
        full = json.loads(made.to_json_string(use_diff=False))
        config |= {"text_config": full["text_config"]} if kind.sub_configs else full
    assert len(check_text(config, "config.json")) == 1  # architectures is null
    check_vision(config, "config.json")


def test_a_loaded_and_saved_configuration_passes(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    for options in ({}, {"moe": True}, {"text_only": True}):
        config = transformers.AutoConfig.from_pretrained(checkpoint(**options))
        config.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert not check_text(saved, "config.json")
        check_vision(saved, "config.json")


# The entries of published models that the tiny checkpoint has not, as their model cards and loaders describe them.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3.6-27B": {
        "language_model_only": False,
        "text_config": {"output_gate_type": "swish", "partial_rotary_factor": 0.25, "pad_token_id": None},
    },
    "Qwen3.8-27B": {
        "text_config": {"output_gate_type": "swish", "rms_norm_eps": 1e-6, "mtp_use_dedicated_embeddings": False},
    },
    "a tuned model of unsloth": {
        "unsloth_fixed": True,
        "unsloth_version": "2026.3.1",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.57.1",
        "text_config": {"torch_dtype": "bfloat16", "eos_token_id": 248046, "pad_token_id": 248044},
        "vision_config": {"torch_dtype": "bfloat16"},
    },
    "an older save": {
        "_name_or_path": "./out",
        "_attn_implementation_autoset": True,
        "return_dict": True,
        "pruned_heads": {},
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_encoder_decoder": False,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "task_specific_params": None,
        "num_beams": 1,
        "temperature": 1.0,
        "bad_words_ids": None,
        "torchscript": False,
        "vision_config": {"pruned_heads": {}, "return_dict": True, "tie_word_embeddings": True},
    },
}


@pytest.mark.parametrize("changes", PUBLISHED.values(), ids=PUBLISHED)
def test_published_configurations_pass(checkpoint: Callable[..., Path], changes: dict[str, Any]) -> None:
    config = json.loads((checkpoint() / "config.json").read_text())
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(config.get(key), dict) else value
    assert not check_text(config, "config.json")
    check_vision(config, "config.json")
