"""docs/precedence.md row by row: what transformers takes is what the GGUF holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from qwen35_gguf.architecture import Architecture
from qwen35_gguf.convert.plan_files import ConversionOptions, PlannedFile, plan_conversion

Factory = Callable[..., Path]
Json = dict[str, Any]


@pytest.fixture
def directory(checkpoint: Factory, tmp_path: Path) -> Path:
    """A checkpoint that may be changed."""
    return Path(shutil.copytree(checkpoint(tied=False), tmp_path / "model"))


def edit(directory: Path, top: Json | None = None, text: Json | None = None, vision: Json | None = None) -> None:
    """Change config.json; None removes an entry."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    parts = ((config, top), (config["text_config"], text), (config.get("vision_config", {}), vision))
    for part, changes in parts:
        for key, value in (changes or {}).items():
            part[key] = value
            if value is None:
                del part[key]
    path.write_text(json.dumps(config))


def planned(directory: Path) -> tuple[tuple[PlannedFile, ...], tuple[str, ...]]:
    plan = plan_conversion(ConversionOptions(directory, "F32", directory.parent / "out"))
    return plan.files, plan.notes


def metadata(directory: Path, number: int = 0) -> Json:
    return {entry.key: entry.value for entry in planned(directory)[0][number].metadata}


def loaded(directory: Path) -> transformers.PreTrainedModel:
    kind = transformers.AutoConfig.from_pretrained(directory)
    return transformers.AutoModelForImageTextToText.from_pretrained(directory, config=kind, dtype=torch.float32)


@pytest.mark.parametrize("names", [None, [], ["LlamaForCausalLM"], ["Qwen3_5MoeForConditionalGeneration"]])
def test_model_type_before_architectures(directory: Path, names: list[str] | None) -> None:
    edit(directory, {"architectures": names})
    assert type(loaded(directory)).__name__ == "Qwen3_5ForConditionalGeneration"
    assert metadata(directory)["general.architecture"] == "qwen35"
    assert any("model_type qwen3_5 counts" in note for note in planned(directory)[1])


def test_text_config_before_the_top_level(directory: Path) -> None:
    edit(directory, {"num_hidden_layers": 2, "rms_norm_eps": 1e-3, "head_dim": 32, "max_position_embeddings": 99})
    text = transformers.AutoConfig.from_pretrained(directory).get_text_config()
    found = metadata(directory)
    assert found["qwen35.attention.key_length"] == text.head_dim
    assert found["qwen35.context_length"] == text.max_position_embeddings
    assert found["qwen35.attention.layer_norm_rms_epsilon"] == pytest.approx(text.rms_norm_eps)
    assert found["qwen35.block_count"] == text.num_hidden_layers + 1


def test_layer_types_before_the_interval(directory: Path) -> None:
    edit(directory, text={"full_attention_interval": 2})
    text = transformers.AutoConfig.from_pretrained(directory).get_text_config()
    recurrent = [kind == "linear_attention" for kind in text.layer_types]
    assert metadata(directory)["qwen35.attention.recurrent_layers"] == [*recurrent, False]


@pytest.mark.slow
@pytest.mark.parametrize(("top", "text"), [(True, False), (False, True), (True, None), (True, True)])
def test_a_claim_of_tied_weights_counts_only_without_an_output_matrix(
    checkpoint: Factory, tmp_path: Path, top: bool, text: bool | None
) -> None:
    for held in (True, False):
        directory = Path(shutil.copytree(checkpoint(tied=not held), tmp_path / f"{held}"))
        edit(directory, {"tie_word_embeddings": top}, {"tie_word_embeddings": text})
        names = [tensor.name for tensor in planned(directory)[0][0].tensors]
        assert ("output.weight" in names) == held
        if top:  # where transformers reads no claim, it makes up an output matrix
            model = loaded(directory)
            same = torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
            assert same != held


def test_the_number_of_positions_before_an_image_size(directory: Path) -> None:
    edit(directory, vision={"image_size": 64})
    model = loaded(directory)
    positions = model.model.visual.pos_embed.weight.shape[0]
    found = metadata(directory, 1)
    assert (found["clip.vision.image_size"] // found["clip.vision.patch_size"]) ** 2 == positions


def test_the_tensors_of_the_head_before_its_claim(directory: Path) -> None:
    edit(directory, text={"mtp_num_hidden_layers": 0})
    assert metadata(directory)["qwen35.nextn_predict_layers"] == 1


@pytest.mark.parametrize(
    ("preprocessor", "processor", "mean", "std"),
    [
        ({"image_mean": [0.1] * 3}, None, 0.1, 0.5),
        ({"image_mean": [0.1] * 3}, {"image_processor": {"image_std": [0.2] * 3}}, 0.5, 0.2),
        ({"image_mean": [0.1] * 3}, {"processor_class": "x"}, 0.1, 0.5),
        ({"image_mean": [0.1] * 3}, {"image_mean": [0.3] * 3}, 0.1, 0.5),
        (None, {"image_processor": {"image_mean": [0.4] * 3}}, 0.4, 0.5),
    ],
)
def test_the_image_processor_of_the_one_file_or_the_other(
    directory: Path, preprocessor: Json | None, processor: Json | None, mean: float, std: float
) -> None:
    kind = {"image_processor_type": "Qwen2VLImageProcessorFast"}
    (directory / "preprocessor_config.json").unlink()
    if preprocessor is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(kind | preprocessor))
    if processor is not None:
        if "image_processor" in processor:
            processor = {"image_processor": kind | processor["image_processor"]}
        (directory / "processor_config.json").write_text(json.dumps(processor))
    settings, _ = transformers.Qwen2VLImageProcessorPil.get_image_processor_dict(str(directory))
    found = metadata(directory, 1)
    for key, value in (("image_mean", mean), ("image_std", std)):
        assert found[f"clip.vision.{key}"] == pytest.approx(settings.get(key, [0.5] * 3)) == [value] * 3


@pytest.mark.parametrize(
    ("generation", "top", "text"),
    [
        ({"do_sample": True, "temperature": 0.5, "top_k": 7}, {"temperature": 0.9, "top_p": 0.8}, {}),
        ({"do_sample": False, "temperature": 0.5}, {}, {}),
        ({"eos_token_id": 3}, {"temperature": 0.9, "do_sample": True}, {}),
        (None, {"temperature": 0.9, "do_sample": True}, {"top_k": 9}),
        (None, {"do_sample": True}, {"temperature": 0.7, "top_p": 0.6}),
        (None, {"temperature": 0.9, "do_sample": True}, {"temperature": 0.7}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_sampling_of_generation_config_else_of_config(
    directory: Path, generation: Json | None, top: Json, text: Json
) -> None:
    (directory / "generation_config.json").unlink()
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    edit(directory, top, text)
    reference = loaded(directory).generation_config
    found = metadata(directory)
    for key, name in (("top_k", "top_k"), ("top_p", "top_p"), ("temp", "temperature")):
        stated, wanted = found.get(f"general.sampling.{key}"), getattr(reference, name)
        if key == "temp" and stated == 0:
            assert reference.do_sample is False
        else:
            assert stated == (None if wanted is None else pytest.approx(wanted)), name


def test_end_tokens_of_generation_config_else_of_config(directory: Path) -> None:
    edit(directory, {"eos_token_id": 77}, {"eos_token_id": 88})
    (directory / "generation_config.json").write_text('{"eos_token_id": [99]}')
    assert loaded(directory).generation_config.eos_token_id == [99]
    assert metadata(directory)["tokenizer.ggml.eot_token_id"] == 99
    (directory / "generation_config.json").unlink()
    assert loaded(directory).generation_config.eos_token_id == 77
    assert metadata(directory)["tokenizer.ggml.eot_token_id"] == 77


def test_the_types_of_the_files_before_the_claimed_one(directory: Path) -> None:
    edit(directory, {"dtype": "float16", "torch_dtype": "float32"}, {"dtype": "float64"})
    plan = plan_conversion(ConversionOptions(directory, "F32", directory.parent / "out"))
    stored = plan.checkpoint.read("norm.weight")
    assert stored.dtype.name == "bfloat16"
    reference = loaded(directory).model.language_model.norm.weight.detach().numpy()
    np.testing.assert_array_equal(stored.astype(np.float32), reference)


def test_a_flat_config_is_its_own_text_config(checkpoint: Factory) -> None:
    directory = checkpoint(text_only=True, tied=False)
    config = json.loads((directory / "config.json").read_text())
    reference = transformers.AutoConfig.from_pretrained(directory)
    assert Architecture.from_config(config).tied == reference.tie_word_embeddings
    assert Architecture.from_config(config).hidden_size == reference.hidden_size
