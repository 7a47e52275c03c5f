"""config.json and the GGUF made of it describe the same model, and what neither can mean is one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import transformers

from oracles.paths import TINY
from qwen35_gguf.architecture import FULL, LINEAR, Architecture, VisionEncoder, layer_kinds
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.errors import CheckpointError, ModelError

Factory = Callable[..., Path]


def config_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def gguf_of(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    reader = gguf.GGUFReader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.")}
    return metadata, {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in reader.tensors}


@pytest.mark.parametrize(
    "options",
    [{"tied": True}, {"tied": False, "value_heads_per_key": 3}, {"moe": True}, {"mtp": False}, {"text_only": True}],
)
def test_config_and_gguf_agree(checkpoint: Factory, tmp_path: Path, options: dict[str, Any]) -> None:
    directory = checkpoint(**options)
    files = hf_to_gguf.convert(directory, "F32", tmp_path)
    stated = Architecture.from_config(config_of(directory))
    found = Architecture.from_gguf(*gguf_of(files[0]))
    assert replace(stated, mtp_blocks=int(options.get("mtp", True))) == found
    if len(files) > 1:
        assert VisionEncoder.from_config(config_of(directory)) == VisionEncoder.from_gguf(gguf_of(files[1])[0])


def test_the_sizes_of_the_trained_model() -> None:
    found = Architecture.from_config(config_of(TINY))
    text = transformers.AutoConfig.from_pretrained(TINY).text_config
    assert list(found.layer_kinds) == text.layer_types
    assert (found.layers, found.hidden_size, found.vocab_size) == (
        text.num_hidden_layers,
        text.hidden_size,
        text.vocab_size,
    )
    assert found.query_size == text.num_attention_heads * text.head_dim
    assert found.conv_channels == found.linear_key_size * 2 + found.linear_value_size
    assert found.recurrent == (*(kind == LINEAR for kind in text.layer_types), False)


def test_the_usual_pattern() -> None:
    assert layer_kinds(5, 4) == (LINEAR, LINEAR, LINEAR, FULL, LINEAR)
    assert layer_kinds(2, 1) == (FULL, FULL)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", None, r"^config\.json: text_config\.hidden_size is missing; must be a size"),
        ("num_attention_heads", "4", r'text_config\.num_attention_heads is "4"; must be a size'),
        ("num_attention_heads", 3, r"num_attention_heads is 3; must be a multiple of num_key_value_heads = 2"),
        ("num_key_value_heads", 0, r"num_key_value_heads is 0; must be a size"),
        ("linear_num_value_heads", 3, r"linear_num_value_heads is 3; must be a multiple of linear_num_key_heads = 2"),
        (
            "layer_types",
            [FULL],
            r'layer_types is \["full_attention"\]; must be a list with num_hidden_layers = 4 entries, and has 1',
        ),
        ("layer_types", ["sliding"] * 4, r'layer_types\[0\] is "sliding"; must be one of'),
        ("layer_types", -1, r"text_config\.layer_types is -1; must be a list"),
        ("num_hidden_layers", 10**9, r"num_hidden_layers is 1000000000; must be a whole number from 1 to 10,000"),
        ("full_attention_interval", "often", r'full_attention_interval is "often"; must be a whole number'),
    ],
)
def test_a_bad_config_names_key_and_value(checkpoint: Factory, key: str, value: object, message: str) -> None:
    config = config_of(checkpoint())
    config["text_config"][key] = value
    if key == "full_attention_interval":
        config["text_config"]["layer_types"] = None
    with pytest.raises(CheckpointError, match=message):
        Architecture.from_config(config)


def test_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"architecture is LlamaForCausalLM, not Qwen3\.5"):
        Architecture.from_config({"architectures": ["LlamaForCausalLM"]})
    with pytest.raises(ModelError, match=r"is a GGUF of llama, not of Qwen3\.5"):
        Architecture.from_gguf({"general.architecture": "llama"})
    with pytest.raises(ModelError, match="is not an mmproj file"):
        VisionEncoder.from_gguf({"general.architecture": "qwen35"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("block_count", None, r"has no qwen35\.block_count"),
        ("block_count", 1, r"block_count is 1, but nextn_predict_layers is 1"),
        ("block_count", 2**31, r"block_count is 2,147,483,648, more than 10,000; convert or download it again"),
        ("attention.head_count", "4", r"qwen35\.attention\.head_count is '4', not a count"),
        ("attention.head_count", -1, r"is -1, not a count"),
        ("embedding_length", 0, r"qwen35\.embedding_length is 0"),
        ("ssm.inner_size", 7, r"ssm\.inner_size is 7, not a multiple of"),
        ("attention.recurrent_layers", [True], r"recurrent_layers has 1 entries for 4 layers"),
    ],
)
def test_bad_metadata_names_key_and_value(files: list[Path], key: str, value: object, message: str) -> None:
    metadata, shapes = gguf_of(files[0])
    metadata[f"qwen35.{key}"] = value
    with pytest.raises(ModelError, match=message):
        Architecture.from_gguf(metadata, shapes, "model.gguf")


def test_more_blocks_of_a_vision_encoder_than_any_has_are_refused(checkpoint: Factory, tmp_path: Path) -> None:
    metadata, _ = gguf_of(hf_to_gguf.convert(checkpoint(), "F32", tmp_path)[1])
    with pytest.raises(ModelError, match=r"clip\.vision\.block_count is 10,001, more than 10,000"):
        VisionEncoder.from_gguf(metadata | {"clip.vision.block_count": 10_001}, "mmproj.gguf")


def test_numbers_by_layer_count_where_they_are_not_zero(files: list[Path]) -> None:
    metadata, shapes = gguf_of(files[0])
    expected = Architecture.from_gguf(metadata, shapes)
    heads = metadata["qwen35.attention.head_count_kv"]
    metadata["qwen35.attention.head_count_kv"] = [0, 0, 0, heads, heads]
    assert Architecture.from_gguf(metadata, shapes) == expected
