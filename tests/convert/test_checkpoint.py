"""Bad checkpoints are one clear line that names the file, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qwen35_gguf.convert import hf_to_gguf, tensor_plan, verify
from qwen35_gguf.convert.checkpoint import canonical_name, open_checkpoint
from qwen35_gguf.errors import CheckpointError

pytestmark = pytest.mark.unit

Header = dict[str, Any]


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "checkpoint"))


def edit_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_header(directory: Path, change: Callable[[Header], object]) -> None:
    """Rewrite the safetensors header in place; the tensor data stay where they are."""
    path = directory / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :])


def plan(directory: Path) -> tensor_plan.TensorPlan:
    return tensor_plan.plan_tensors(open_checkpoint(directory))


def rename(header: Header, old: str, new: str) -> None:
    header[new] = header.pop(old)


NORM = "model.language_model.norm.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "config is not JSON": (lambda d: (d / "config.json").write_text("{"), "not valid JSON"),
    "another architecture": (
        lambda d: edit_config(d, lambda c: c.update(architectures=["LlamaForCausalLM"], model_type="llama")),
        "architecture is LlamaForCausalLM, not Qwen3.5",
    ),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"no \*.safetensors"),
    "truncated data": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-1000]),
        "truncated: tensor",
    ),
    "header longer than the file": (
        lambda d: (d / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}"),
        "truncated: the header claims 1099511627776 bytes",
    ),
    "a pointer of Git LFS": (
        lambda d: (d / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "pointer of Git LFS.*git lfs pull",
    ),
    "empty file": (lambda d: (d / "model.safetensors").write_bytes(b""), "truncated"),
    "header is not JSON": (
        lambda d: (d / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"abcd"),
        r"its safetensors header: is not valid JSON",
    ),
    "offsets out of range": (
        lambda d: edit_header(d, lambda h: h[NORM].update(data_offsets=[0, 1 << 50])),
        "truncated: tensor model.language_model.norm.weight",
    ),
    "overlapping tensors": (
        lambda d: edit_header(
            d,
            lambda h: h[NORM].update(
                data_offsets=h["model.language_model.layers.0.input_layernorm.weight"]["data_offsets"]
            ),
        ),
        "overlap",
    ),
    "unknown dtype": (lambda d: edit_header(d, lambda h: h[NORM].update(dtype="F13")), "unknown dtype F13"),
    "malformed entry": (
        lambda d: edit_header(d, lambda h: h[NORM].pop("shape")),
        r"header: model\.language_model\.norm\.weight\.shape is missing; must be a list",
    ),
    "wrong length": (lambda d: edit_header(d, lambda h: h[NORM].update(shape=[128])), "needs 256 bytes but has 512"),
    "wrong shape": (
        lambda d: edit_config(d, lambda c: c["text_config"].update(hidden_size=512)),
        "config.json promises",
    ),
    "missing tensor": (
        lambda d: edit_header(d, lambda h: h.pop(NORM)),
        r"1 tensors are missing, first norm.weight \(for output_norm.weight\)",
    ),
    "unknown tensor": (
        lambda d: edit_header(d, lambda h: h.update(extra={"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]})),
        "1 tensors are unknown to the qwen35 map, first extra",
    ),
    "a method that is not read": (
        lambda d: edit_config(d, lambda c: c.update(quantization_config={"quant_method": "hqq"})),
        r"quantized with hqq, which is not read \(compressed-tensors, modelopt,",
    ),
    "a missing size": (
        lambda d: edit_config(d, lambda c: c["text_config"].pop("linear_num_key_heads")),
        r"text_config\.linear_num_key_heads is missing",
    ),
    "layer types": (
        lambda d: edit_config(d, lambda c: c["text_config"].update(layer_types=["full_attention"])),
        "layer_types",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_bad_checkpoint_is_one_clear_line(
    checkpoint: Callable[..., Path], tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    directory = copy(checkpoint(), tmp_path)
    damage(directory)
    with pytest.raises(CheckpointError, match=message) as error:
        plan(directory)
    assert "\n" not in str(error.value)


def test_an_index_must_name_shards_that_are_there(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = copy(checkpoint(shards=2), tmp_path)
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002.safetensors is named in the index but absent"):
        open_checkpoint(directory)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors"])
def test_an_index_must_not_point_outside(checkpoint: Callable[..., Path], tmp_path: Path, shard: str) -> None:
    directory = copy(checkpoint(shards=2), tmp_path)
    index = directory / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.language_model.norm.weight"] = shard
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="points outside the directory"):
        open_checkpoint(directory)


def test_an_index_entry_must_be_in_its_shard(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = copy(checkpoint(shards=2), tmp_path)
    index = directory / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.language_model.absent"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match="1 tensors of the index are in no shard, first model.language_model.absent"
    ):
        open_checkpoint(directory)


def test_packed_integers_are_recognized_as_quantized(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = copy(checkpoint(), tmp_path)
    edit_header(directory, lambda h: h["model.language_model.norm.weight"].update(dtype="I32", shape=[128]))
    with pytest.raises(CheckpointError, match="packed integers"):
        open_checkpoint(directory)


def test_fp8_weights_need_their_scales(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = copy(checkpoint(), tmp_path)
    name = "model.language_model.layers.0.mlp.gate_proj.weight"
    edit_header(directory, lambda h: h[name].update(dtype="F8_E4M3", shape=[512, 512]))
    with pytest.raises(CheckpointError, match="has no scales"):
        open_checkpoint(directory)


def test_fp8_blocks_are_dequantized(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = copy(checkpoint(), tmp_path)
    name = "model.language_model.layers.0.mlp.gate_proj.weight"
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((512, 256)).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.uniform(0.5, 2, (4, 2)).astype(np.float32)

    def replace(header: Header) -> None:
        start = max(entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry)
        header[name] = {"dtype": "F8_E4M3", "shape": [512, 256], "data_offsets": [start, start + weights.nbytes]}
        after = start + weights.nbytes
        header[f"{name}_scale_inv"] = {"dtype": "F32", "shape": [4, 2], "data_offsets": [after, after + scales.nbytes]}

    edit_config(
        directory, lambda c: c.update(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    )
    with (directory / "model.safetensors").open("ab") as file:
        file.write(weights.tobytes() + scales.tobytes())
    edit_header(directory, replace)
    read = open_checkpoint(directory).read("layers.0.mlp.gate_proj.weight")
    expected = weights.astype(np.float32).reshape(4, 128, 2, 128) * scales[:, None, :, None]
    np.testing.assert_array_equal(read, expected.reshape(512, 256))
    (file,) = hf_to_gguf.convert(directory, "BF16", tmp_path, vision=False)
    assert all(result.passed for result in verify.verify(file, directory))


def test_a_claimed_mtp_head_that_is_absent_is_a_note(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = copy(checkpoint(mtp=False), tmp_path)
    edit_config(directory, lambda c: c["text_config"].update(mtp_num_hidden_layers=1))
    result = plan(directory)
    assert result.architecture.mtp_blocks == 0
    assert any("no mtp.* tensors" in note for note in result.notes)


def test_an_unclaimed_mtp_head_is_converted(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = copy(checkpoint(mtp=True), tmp_path)
    edit_config(directory, lambda c: c["text_config"].update(mtp_num_hidden_layers=0))
    result = plan(directory)
    assert result.architecture.mtp_blocks == 1
    assert any("1 are there" in note for note in result.notes)


def test_an_mlx_export_is_recognized_and_reported(checkpoint: Callable[..., Path]) -> None:
    opened = open_checkpoint(checkpoint(style="mlx"))
    assert opened.norms_shifted
    assert opened.notes[0].startswith("MLX export")
    assert open_checkpoint(checkpoint(mtp=False)).norms_shifted is False


@pytest.mark.parametrize(
    ("stored", "canonical"),
    [
        ("model.language_model.layers.0.input_layernorm.weight", "layers.0.input_layernorm.weight"),
        ("model.layers.0.input_layernorm.weight", "layers.0.input_layernorm.weight"),
        ("language_model.model.norm.weight", "norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.mtp.fc.weight", "mtp.fc.weight"),
        ("mtp.fc.weight", "mtp.fc.weight"),
        ("model.visual.pos_embed.weight", "visual.pos_embed.weight"),
        ("vision_tower.pos_embed.weight", "visual.pos_embed.weight"),
        ("model.layers.1.mlp.experts.down_proj.weight", "layers.1.mlp.experts.down_proj"),
    ],
)
def test_names_are_recognized_with_any_prefix(stored: str, canonical: str) -> None:
    assert canonical_name(stored) == canonical


def test_two_spellings_of_one_tensor_are_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    directory = copy(checkpoint(), tmp_path)
    edit_header(directory, lambda h: rename(h, "mtp.norm.weight", "model.norm.weight"))
    with pytest.raises(CheckpointError, match="are the same tensor"):
        open_checkpoint(directory)
