"""Every key of config.json is known, or refused by its name."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qwen35_gguf import cli
from qwen35_gguf.convert import plan_files
from qwen35_gguf.convert.config import known_keys
from qwen35_gguf.convert.config.check import check_text, check_vision, without
from qwen35_gguf.errors import CheckpointError

pytestmark = pytest.mark.unit

Config = dict[str, Any]


@pytest.fixture
def config(checkpoint: Callable[..., Path]) -> Config:
    return json.loads((checkpoint() / "config.json").read_text())


def check(config: Config) -> list[str]:
    check_vision(config, "config.json")
    return check_text(config, "config.json")


def changed(config: Config, path: str, value: Any) -> Config:
    made = copy.deepcopy(config)
    part = made
    *parts, key = path.split(".")
    for name in parts:
        part = part.setdefault(name, {})
    part[key] = value
    return made


REFUSED = [
    ("text_config.output_gate_type", "sigmoid", 'is "sigmoid"; must be one of "swish", "silu"'),
    ("text_config.hidden_act", "gelu", 'is "gelu"; must be one of "silu", "swish"'),
    ("text_config.attn_output_gate", False, "is false; must be true"),
    ("text_config.attention_bias", True, "is true; must be false"),
    ("text_config.attention_bias", 0, "is 0; must be false"),
    ("text_config.mtp_use_dedicated_embeddings", True, "is true; must be false"),
    ("text_config.mlp_only_layers", [1], r"is \[1\]; must be \[\]"),
    ("text_config.norm_topk_prob", False, "is false; must be true"),
    ("text_config.routed_scaling_factor", 2.5, r"is 2\.5; must be one of 1, 1\.0"),
    ("text_config.use_sliding_window", True, "is true; must be false"),
    ("text_config.sliding_window", 4096, "is 4096: a key that is not known, and may change what the model computes"),
    ("text_config.final_logit_softcapping", 30.0, r"is 30\.0: a key that is not known"),
    ("text_config.per_layer_config", {"0": {"head_dim": 128}}, "is an object; must be"),
    ("text_config.rope_parameters.low_freq_factor", 1.0, r"is 1\.0: a key that is not known"),
    ("text_config.rope_parameters.full_attention", {}, "is {}: a key that is not known"),
    ("text_config.rope_parameters.attn_factor", 1.0, r"is 1\.0: a key that is not known"),
    ("text_config.linear_value_head_dim", 32, "is 32; must be as linear_key_head_dim"),
    ("audio_config", {"depth": 2}, r'is {"depth": 2}: a key that is not known'),
    ("is_encoder_decoder", True, "is true; must be false"),
    ("vision_config.hidden_act", "quick_gelu", 'is "quick_gelu"; must be "gelu_pytorch_tanh"'),
    ("vision_config.deepstack_visual_indexes", [5], r"is \[5\]; must be \[\]"),
    ("vision_config.fullatt_block_indexes", [7], r"is \[7\]: a key that is not known"),
    ("vision_config.rope_parameters.rope_theta", 5000, "is 5000; must be one of 10000, 10000.0"),
    ("vision_config.rope_parameters.rope_type", "yarn", 'is "yarn"; must be one of'),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_what_changes_the_model_is_refused_by_name(config: Config, path: str, value: object, message: str) -> None:
    asked = changed(config, path, value)
    with pytest.raises(CheckpointError, match=rf"^config\.json: {path} {message}") as error:
        check(asked)
    assert "\n" not in str(error.value)
    if "linear_value" not in path:
        assert str(error.value).endswith(f"convert with --ignore-config {path}")
        assert not check(without(asked, [path])[0])
        assert not check(changed(config, path, None))


def test_several_are_named_at_once(config: Config) -> None:
    asked = changed(changed(config, "text_config.a", 1), "text_config.b", 2)
    with pytest.raises(CheckpointError, match=r"text_config\.a is 1: .* \(and 1 more: text_config\.b\); if it does"):
        check(asked)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("text_config.output_gate_type", "swish"),
        ("text_config.output_gate_type", None),
        ("text_config.sliding_window", None),
        ("text_config.use_sliding_window", False),
        ("language_model_only", False),
        ("text_config.partial_rotary_factor", 0.25),
        ("unsloth_version", "2026.1"),
        ("_attn_implementation_autoset", True),
        ("id2label", {"0": "LABEL_0"}),
        ("vision_config.image_size", 768),
        ("vision_config.rope_parameters", {"rope_type": "axial", "rope_theta": 10000.0}),
        ("torch_dtype", "bfloat16"),
    ],
)
def test_what_published_and_tuned_models_have_is_accepted(config: Config, path: str, value: object) -> None:
    assert not check(changed(config, path, value))


@pytest.mark.parametrize(
    ("names", "model_type", "noted"),
    [
        (["Qwen3_5ForConditionalGeneration"], "qwen3_5", False),
        (["Qwen3_5ForCausalLM"], "qwen3_5", False),
        (None, "qwen3_5", True),
        ([], "qwen3_5_text", True),
        (["LlamaForCausalLM"], "qwen3_5", True),
        (["Qwen3_5MoeForCausalLM"], "qwen3_5", True),
        (["Qwen3_5ForCausalLM"], None, False),
        (["Qwen3_5ForCausalLM"], "my_model", True),
    ],
)
def test_model_type_decides_and_a_contradiction_is_a_note(
    config: Config, names: list[str] | None, model_type: str | None, noted: bool
) -> None:
    notes = check(config | {"architectures": names, "model_type": model_type})
    assert len(notes) == noted


def test_the_tables_do_not_contradict_each_other() -> None:
    parts = [
        (known_keys.READ, known_keys.HARMLESS, known_keys.LIMITED),
        (known_keys.READ_VISION, known_keys.HARMLESS | known_keys.HARMLESS_VISION, known_keys.LIMITED_VISION),
    ]
    for read, harmless, limited in parts:
        listed = [*read, *limited, *(key for keys in harmless.values() for key in keys)]
        assert {key for key in listed if listed.count(key) > 1} <= {"model_type", "architectures"}


def test_ignored_keys_by_name_path_and_not_there(config: Config) -> None:
    remaining, notes = without(config, ["text_config.hidden_act", "image_token_id", "nothing"])
    assert "hidden_act" not in remaining["text_config"]
    assert "hidden_act" in remaining["vision_config"]
    assert "image_token_id" not in remaining
    assert [note.split(": ")[1] for note in notes] == [
        "ignored, as if it was not there",
        "ignored, as if it was not there",
        "config.json has no such key",
    ]
    assert "hidden_act" in config["text_config"]


def test_convert_and_package_take_the_option(checkpoint: Callable[..., Path], config: Config, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint(), tmp_path / "model"))
    (directory / "config.json").write_text(json.dumps(changed(config, "text_config.output_gate_type", "sigmoid")))
    with pytest.raises(CheckpointError, match="output_gate_type"):
        plan_files.plan_conversion(plan_files.ConversionOptions(directory, "F16", tmp_path / "out"))
    for command in (["convert", "-q", "F16"], ["package", "--quants", "F16", "--no-measure", "--no-lint"]):
        arguments = [*command, str(directory), "-o", str(tmp_path / command[0])]
        refused = CliRunner().invoke(cli.main, arguments)
        assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
        assert "--ignore-config text_config.output_gate_type" in refused.output
        assert not (tmp_path / command[0]).exists()
        done = CliRunner().invoke(cli.main, [*arguments, "--ignore-config", "output_gate_type"])
        assert done.exit_code == 0, done.output


def test_a_vision_encoder_that_is_left_out_is_not_checked(
    checkpoint: Callable[..., Path], config: Config, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(checkpoint(), tmp_path / "model"))
    (directory / "config.json").write_text(json.dumps(changed(config, "vision_config.hidden_act", "relu")))
    options = plan_files.ConversionOptions(directory, "F16", tmp_path / "out", vision=False)
    assert len(plan_files.plan_conversion(options).files) == 1
