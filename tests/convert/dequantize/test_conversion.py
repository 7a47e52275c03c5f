"""A conversion of a quantized checkpoint is that of the same checkpoint with its weights dequantized beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inputs import quantized, saved_tensors
from qwen35_gguf.convert import hf_to_gguf, verify
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.tensor_plan import plan_tensors
from qwen35_gguf.convert.weights_digest import WeightsDigest
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data

pytestmark = pytest.mark.unit


def plain(source: Path, target: Path, dequantized: Path) -> Path:
    """Copy a checkpoint with the weights of a quantized copy, as F32."""
    opened = open_checkpoint(dequantized)
    by_name = {opened.tensors[name].name: opened.read(name) for name in opened.tensors}

    def change(tensors: quantized.Tensors) -> quantized.Tensors:
        changed = {}
        for name, array in tensors.items():
            stem = name.removesuffix("weight")
            mains = [stem + role for role in ("weight_packed", "qweight", "blocks", "weight")]
            changed[name] = next((by_name[main] for main in mains if main in by_name), array)
        return changed

    return saved_tensors.changed(source, target, change)


def assert_same_tensors(file: Path, other: Path) -> None:
    one, two = read_header(file), read_header(other)
    assert one.tensors == two.tensors
    assert one.tensors
    for a, b in zip(one.tensors, two.tensors, strict=True):
        found, expected = tensor_data(one, a, map_data(one)), tensor_data(two, b, map_data(two))
        np.testing.assert_array_equal(found, expected, err_msg=a.name)


# One of each way that rows are read in pieces; what each format's numbers are is tested beside.
CONVERTED = (
    "compressed-tensors FP8_BLOCK", "compressed-tensors W4A16, zero points", "compressed-tensors NVFP4", "GPTQ 3 bits",
    "AWQ", "bitsandbytes NF4, double", "MXFP4", "MLX 6 bits",
)  # fmt: skip


@pytest.mark.parametrize("case", [quantized.CASES[name] for name in CONVERTED], ids=CONVERTED)
def test_files_equal_those_of_dequantized_weights(
    checkpoint: Callable[..., Path], tmp_path: Path, case: quantized.Case
) -> None:
    source = checkpoint(vision=False)
    folder = quantized.quantize(source, tmp_path / "quantized", case)
    (file,) = hf_to_gguf.convert(folder, "F32", tmp_path / "a")
    (other,) = hf_to_gguf.convert(plain(source, tmp_path / "plain", folder), "F32", tmp_path / "b")
    assert_same_tensors(file, other)
    results = list(verify.verify(file, folder))
    assert results
    assert all(result.passed for result in results)


@pytest.mark.parametrize("quant", ["BF16", "Q4_K_M"])
def test_quantized_files_equal_those_of_dequantized_weights(
    checkpoint: Callable[..., Path], tmp_path: Path, quant: str
) -> None:
    source = checkpoint()
    folder = quantized.quantize(source, tmp_path / "quantized", quantized.CASES["ModelOpt NVFP4"])
    files = hf_to_gguf.convert(folder, quant, tmp_path / "a")
    others = hf_to_gguf.convert(plain(source, tmp_path / "plain", folder), quant, tmp_path / "b")
    for file, other in zip(files, others, strict=True):
        assert_same_tensors(file, other)


def experts(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Store the stacks of experts as FP8 in blocks, with one scale tensor for a stack."""
    random = np.random.default_rng(0)

    def change(held: quantized.Tensors) -> quantized.Tensors:
        changed = dict(held)
        for name, array in held.items():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                blocks = tuple(-(-size // 128) for size in array.shape[1:])
                changed[name] = quantized.float8(random, *array.shape)
                changed[f"{name}_scale_inv"] = quantized.scales(random, array.shape[0], *blocks)
                tensors[name] = changed[name].astype(np.float32) * np.repeat(
                    np.repeat(changed[f"{name}_scale_inv"], 128, 1), 128, 2
                )
        return changed

    return saved_tensors.changed(folder, folder.parent / "experts", change)


def test_stacked_experts_are_read_expert_by_expert(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    expected: dict[str, np.ndarray] = {}
    source = saved_tensors.changed(checkpoint(moe=True, vision=False), tmp_path / "source", lambda tensors: tensors)
    folder = experts(source, expected)
    saved_tensors.edit_json(
        folder / "config.json",
        lambda c: c.update(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]}),
    )
    (file,) = hf_to_gguf.convert(folder, "F32", tmp_path / "a")
    changed = saved_tensors.changed(source, tmp_path / "plain", lambda tensors: {**tensors, **expected})
    (other,) = hf_to_gguf.convert(changed, "F32", tmp_path / "b")
    assert_same_tensors(file, other)
    assert all(result.passed for result in verify.verify(file, folder))


def test_the_note_tells_the_format_and_that_the_quality_is_that_of_the_source(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    case = quantized.CASES["ModelOpt FP8"]
    folder = quantized.quantize(checkpoint(), tmp_path / "quantized", case)
    notes = open_checkpoint(folder).notes
    assert "26 FP8 (ModelOpt) tensors" in notes[0]
    assert "the quality is that of the quantized source" in notes[0]
    assert "26 scales of activations or of the KV cache are not used" in notes[1]


def test_the_digest_of_the_weights_covers_their_companions(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = quantized.quantize(checkpoint(), tmp_path / "quantized", quantized.CASES["FP8 blocks"])
    before = WeightsDigest(open_checkpoint(folder)).hexdigest()

    def change(tensors: quantized.Tensors) -> None:
        name = next(name for name in tensors if name.endswith("weight_scale_inv"))
        tensors[name][0, 0] *= 2

    other = saved_tensors.changed(folder, tmp_path / "other", change)
    assert WeightsDigest(open_checkpoint(other)).hexdigest() != before


def test_what_an_adapter_changes_is_changed_after_dequantizing(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = quantized.quantize(checkpoint(), tmp_path / "quantized", quantized.CASES["bitsandbytes NF4, double"])
    opened = open_checkpoint(folder)
    name = "layers.0.mlp.gate_proj.weight"
    changed = replace(opened, changes={name: lambda weights: weights + np.float32(1)})
    (output,) = [tensor for tensor in plan_tensors(changed).text if tensor.sources == (name,)]
    rows = np.concatenate([rows for _, rows in output.matrices(changed)])
    np.testing.assert_array_equal(rows, opened.read(name) + np.float32(1))
