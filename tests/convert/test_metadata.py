"""Every key and value against the stock converter's, then what it does not cover: errors, YaRN, names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, LlamaFileType

from qwen35_gguf.convert.metadata import output_name, text_metadata, vision_metadata
from qwen35_gguf.convert.tokenizer.vocabulary import read_vocabulary
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.gguf_file.keyvalue import KeyValue

Factory = Callable[..., Path]
Entries = dict[str, tuple[list[str], Any]]

BF16 = int(LlamaFileType.MOSTLY_BF16)

# Keys that may differ from the stock converter's, with the reason. Nothing else may.
ALLOWED_TEXT: dict[str, str] = {}
ALLOWED_VISION: dict[str, str] = {}

MODELS: dict[str, dict[str, Any]] = {
    "dense with MTP": {},
    "dense without MTP": {"mtp": False, "value_heads_per_key": 3, "tied": False},
    "text only": {"text_only": True, "vision": False},
    "experts": {"moe": True},
}


def of_file(path: Path) -> Entries:
    """The file's entries: types and value; the reader's own GGUF.* fields are not keys."""
    fields = GGUFReader(path).fields.items()
    return {k: ([t.name for t in f.types], f.contents()) for k, f in fields if not k.startswith("GGUF.")}


def of_list(entries: Iterable[KeyValue]) -> Entries:
    """Our entries in the same form, with floats rounded to what a file holds."""
    found: Entries = {}
    for entry in entries:
        assert entry.key not in found, f"{entry.key} is written twice"
        types = [entry.type.name] + ([entry.element.name] if entry.element is not None else [])
        value = list(entry.value) if entry.type == GGUFValueType.ARRAY else entry.value
        if "FLOAT32" in types:
            value = np.float32(value).tolist()
        found[entry.key] = (types, value)
    return found


def config_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def parameters_of(path: Path) -> tuple[int, int, int, int]:
    """The parameter counts as GGUFWriter.get_total_parameter_count computes them from a file's tensors."""
    total = shared = expert = experts = 0
    for tensor in GGUFReader(path).tensors:
        count = int(np.prod(tensor.shape))
        total += count
        if "_exps." in tensor.name:
            experts = int(tensor.shape[-1])
            expert += count // experts
        else:
            shared += count
    return total, shared, expert, experts


def ours(directory: Path, **changes: Any) -> list[KeyValue]:
    config = changes.pop("config", None) or config_of(directory)
    options = {"arch": "qwen35", "mtp_blocks": 1, "file_type": BF16, "name": None, "parameters": (10**9, 10**9, 0, 0)}
    return text_metadata(config, directory, **(options | changes))


def nested(directory: Path, name: str, value: object) -> dict[str, Any]:
    """The checkpoint's config with one entry of text_config changed, or removed by None."""
    config = config_of(directory)
    config["text_config"][name] = value
    if value is None:
        del config["text_config"][name]
    return config


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_text_keys_equal_the_stock_converter(
    checkpoint: Factory, stock_convert: Factory, options: dict[str, Any]
) -> None:
    directory = checkpoint(**options)
    stock = stock_convert(directory)
    config = config_of(directory)
    found = ours(
        directory,
        arch="qwen35moe" if options.get("moe") else "qwen35",
        mtp_blocks=int(options.get("mtp", True)),
        parameters=parameters_of(stock),
    )
    found += read_vocabulary(directory, {**config, **config.get("text_config", {})}["vocab_size"]).entries
    assert [entry.key for entry in found[:2]] == ["general.architecture", "general.type"]

    expected, actual = of_file(stock), of_list(found)
    assert set(actual) ^ set(expected) <= set(ALLOWED_TEXT)
    different = {k: (actual[k], expected[k]) for k in set(actual) & set(expected) if actual[k] != expected[k]}
    assert {k: v for k, v in different.items() if k not in ALLOWED_TEXT} == {}


def test_vision_keys_equal_the_stock_converter(checkpoint: Factory, stock_convert: Factory) -> None:
    directory = checkpoint()
    stock = stock_convert(directory, mmproj=True)
    found = vision_metadata(config_of(directory), directory, file_type=BF16, name=None, parameters=parameters_of(stock))
    expected, actual = of_file(stock), of_list(found)
    assert next(iter(actual)) == "general.architecture"
    assert set(actual) ^ set(expected) <= set(ALLOWED_VISION)
    different = {k: (actual[k], expected[k]) for k in set(actual) & set(expected) if actual[k] != expected[k]}
    assert {k: v for k, v in different.items() if k not in ALLOWED_VISION} == {}


@pytest.mark.unit
def test_no_two_numbers_of_the_config_are_confused(tmp_path: Path) -> None:
    """Published models repeat some numbers (128, 16), so a comparison with them cannot tell these entries apart."""
    text = {
        "max_position_embeddings": 2, "hidden_size": 3, "num_attention_heads": 4, "num_key_value_heads": 5,
        "head_dim": 8, "linear_conv_kernel_dim": 9, "linear_key_head_dim": 10, "linear_num_key_heads": 11,
        "linear_num_value_heads": 12, "linear_value_head_dim": 13, "num_hidden_layers": 14, "intermediate_size": 15,
        "num_experts": 16, "num_experts_per_tok": 17, "moe_intermediate_size": 18,
        "shared_expert_intermediate_size": 19, "full_attention_interval": 5, "rms_norm_eps": 0.25,
        "rope_parameters": {"rope_theta": 20, "partial_rotary_factor": 0.5, "mrope_section": [1, 2, 3]},
    }  # fmt: skip
    found = {k: v[1] for k, v in of_list(ours(tmp_path, config=text, arch="qwen35moe", mtp_blocks=2)).items()}
    assert {k.removeprefix("qwen35moe."): v for k, v in found.items() if k.startswith("qwen35moe.")} == {
        "block_count": 16, "nextn_predict_layers": 2, "context_length": 2, "embedding_length": 3,
        "attention.head_count": 4, "attention.head_count_kv": 5, "attention.key_length": 8,
        "attention.value_length": 8, "attention.layer_norm_rms_epsilon": 0.25, "ssm.conv_kernel": 9,
        "ssm.state_size": 10, "ssm.group_count": 11, "ssm.time_step_rank": 12, "ssm.inner_size": 12 * 13,
        "feed_forward_length": 15, "expert_count": 16, "expert_used_count": 17, "expert_feed_forward_length": 18,
        "expert_shared_feed_forward_length": 19, "full_attention_interval": 5, "rope.freq_base": 20.0,
        "rope.dimension_count": 4, "rope.dimension_sections": [1, 2, 3, 0],
        "attention.recurrent_layers": [True, True, True, True, False] * 2 + [True] * 4 + [False] * 2,
    }  # fmt: skip


@pytest.mark.unit
def test_yarn(checkpoint: Factory) -> None:
    directory = checkpoint()
    config = config_of(directory)
    config["text_config"]["rope_parameters"] |= {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 262144,
        "attention_factor": 1.5,
        "beta_fast": 32,
        "beta_slow": 1,
    }
    found = {k: v for k, v in of_list(ours(directory, config=config)).items() if ".rope.scaling." in k}
    assert {key.removeprefix("qwen35.rope.scaling."): entry for key, entry in found.items()} == {
        "type": (["STRING"], "yarn"),
        "factor": (["FLOAT32"], 4.0),
        "original_context_length": (["UINT32"], 262144),
        "attn_factor": (["FLOAT32"], np.float32(1.5 / (1 + 0.1 * np.log(4))).tolist()),
        "yarn_beta_fast": (["FLOAT32"], 32.0),
        "yarn_beta_slow": (["FLOAT32"], 1.0),
    }


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_size", None, r"config\.json: text_config\.hidden_size is missing; qwen35\.embedding_length needs it"),
        ("linear_value_head_dim", None, r"config\.json: text_config\.linear_value_head_dim is missing"),
        ("intermediate_size", None, r"config\.json: text_config\.intermediate_size is missing"),
        ("rope_parameters", {}, r"config\.json: text_config\.rope_parameters\.rope_theta is missing"),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e7}, r'rope_type is "llama3"; must be one of'),
        ("layer_types", ["full_attention"], r"layer_types is \[.*\]; must be a list with num_hidden"),
        ("num_attention_heads", "four", r'text_config\.num_attention_heads is "four"; must be a whole number'),
        ("num_attention_heads", -1, r"num_attention_heads is -1; must be a whole number"),
        ("rms_norm_eps", float("nan"), r"text_config\.rms_norm_eps is NaN; must be a number"),
        ("num_hidden_layers", "4", r'text_config\.num_hidden_layers is "4"; must be a whole number'),
    ],
)
def test_config_errors(checkpoint: Factory, name: str, value: object, message: str) -> None:
    directory = checkpoint()
    with pytest.raises(CheckpointError, match=message) as caught:
        ours(directory, config=nested(directory, name, value))
    assert "\n" not in str(caught.value)


@pytest.mark.unit
def test_layer_types_follow_the_interval_when_absent(checkpoint: Factory) -> None:
    directory = checkpoint()
    stated = of_list(ours(directory))["qwen35.attention.recurrent_layers"]
    assert (
        of_list(ours(directory, config=nested(directory, "layer_types", None)))["qwen35.attention.recurrent_layers"]
        == stated
    )


@pytest.mark.unit
def test_unknown_architecture_and_no_vision(checkpoint: Factory) -> None:
    directory = checkpoint()
    with pytest.raises(CheckpointError, match="'llama' is unknown; known are qwen35, qwen35moe"):
        ours(directory, arch="llama")
    with pytest.raises(CheckpointError, match="no vision_config"):
        vision_metadata({}, directory, file_type=1, name=None, parameters=(1, 1, 0, 0))


def vision(directory: Path, config: dict[str, Any]) -> Entries:
    return of_list(vision_metadata(config, directory, file_type=1, name=None, parameters=(10**6, 10**6, 0, 0)))


@pytest.mark.unit
def test_image_statistics(checkpoint: Factory, tmp_path: Path) -> None:
    config = config_of(checkpoint())
    assert vision(tmp_path, config)["clip.vision.image_mean"] == (["ARRAY", "FLOAT32"], [0.5, 0.5, 0.5])
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0, 0.25, 1], "image_std": [1, 1, 1]}')
    assert vision(tmp_path, config)["clip.vision.image_mean"] == (["ARRAY", "FLOAT32"], [0.0, 0.25, 1.0])
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"image_std": [0.5, 0.5, 0.5]}}')
    assert vision(tmp_path, config)["clip.vision.image_std"] == (["ARRAY", "FLOAT32"], [0.5, 0.5, 0.5])
    assert vision(tmp_path, config)["clip.vision.image_mean"] == (["ARRAY", "FLOAT32"], [0.5, 0.5, 0.5])
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"processor_config\.json: is not valid JSON"):
        vision(tmp_path, config)


@pytest.mark.unit
def test_deepstack_layers(checkpoint: Factory) -> None:
    config = config_of(checkpoint())
    config["vision_config"]["deepstack_visual_indexes"] = [1]
    assert vision(checkpoint(), config)["clip.vision.is_deepstack_layers"] == (["ARRAY", "BOOL"], [False, True])
    config["vision_config"]["deepstack_visual_indexes"] = [2]
    with pytest.raises(
        CheckpointError, match=r"deepstack_visual_indexes is \[2\]; must be a list of layers below depth = 2"
    ):
        vision(checkpoint(), config)


@pytest.mark.unit
def test_model_card_and_sampling(checkpoint: Factory, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: [en, zh]\ntags: [chat]\npipeline_tag: image-text-to-text\n"
        "base_model: Qwen/Qwen3.5-4B-Base\n---\n# Text\n"
    )
    (tmp_path / "generation_config.json").write_text('{"temperature": 1, "top_k": 20, "repetition_penalty": 1.5}')
    found = of_list(ours(tmp_path, config=config_of(checkpoint())))
    assert found["general.license"] == (["STRING"], "apache-2.0")
    assert found["general.languages"] == (["ARRAY", "STRING"], ["en", "zh"])
    assert found["general.tags"] == (["ARRAY", "STRING"], ["chat", "image-text-to-text"])
    assert found["general.base_model.count"] == (["UINT32"], 1)
    assert found["general.base_model.0.repo_url"] == (["STRING"], "https://huggingface.co/Qwen/Qwen3.5-4B-Base")
    assert found["general.sampling.temp"] == (["FLOAT32"], 1.0)
    assert found["general.sampling.top_k"] == (["INT32"], 20)
    assert found["general.sampling.penalty_repeat"] == (["FLOAT32"], 1.5)


@pytest.mark.unit
def test_broken_front_matter(checkpoint: Factory, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [apache\n---\n")
    with pytest.raises(CheckpointError, match=r"README\.md: the front matter cannot be read"):
        ours(tmp_path, config=config_of(checkpoint()))


@pytest.mark.unit
def test_source_repository(checkpoint: Factory) -> None:
    found = of_list(ours(checkpoint(), source_repo="Qwen/Qwen3.5-4B", revision="abc123"))
    assert found["general.source.repo_url"] == (["STRING"], "https://huggingface.co/Qwen/Qwen3.5-4B")
    assert found["general.source.url"] == (["STRING"], "https://huggingface.co/Qwen/Qwen3.5-4B/tree/abc123")
    assert found["general.name"] == (["STRING"], "Qwen3.5 4B")
    assert found["general.organization"] == (["STRING"], "Qwen")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("Qwen3.5-4B", None, "Qwen3.5-4B"),
        ("Qwen3.5-4B-Instruct", None, "Qwen3.5-4B-Instruct"),
        ("my model", None, "My-Model-4.0B"),  # a derived name gets title case, a given one is kept
        ("my model", "Other Name", "Other-Name-4.0B"),
    ],
)
def test_output_name(tmp_path: Path, folder: str, name: str | None, expected: str) -> None:
    directory = tmp_path / folder
    directory.mkdir()
    assert output_name(directory, name, {}, (4 * 10**9, 4 * 10**9, 0, 0)) == expected


@pytest.mark.unit
def test_output_name_of_a_mixture_and_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = (35 * 10**9, 2 * 10**9, 10**9, 256)
    directory = tmp_path / "experts"
    directory.mkdir()
    monkeypatch.chdir(directory)
    assert output_name(Path(), None, {}, parameters) == "Experts-256x3.0B"
    assert output_name(Path(), None, {}, parameters, with_size=False) == "Experts"
