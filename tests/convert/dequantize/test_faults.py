"""What does not fit is one line that names the weights and the companion; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inputs import quantized, saved_tensors
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.convert.checkpoint import open_checkpoint
from qwen35_gguf.convert.dequantize.methods import find_method
from qwen35_gguf.errors import CheckpointError, Qwen35Error

pytestmark = pytest.mark.unit

ROWS, COLUMNS = 128, 256
Change = Callable[[quantized.Tensors], object]


def read_changed(folder: Path, name: str, change: Change, config: dict[str, Any] | None = None) -> None:
    case = quantized.CASES[name]
    tensors = case.store(np.random.default_rng(0), ROWS, COLUMNS)
    change(tensors)
    quantized.write_module(folder, case, tensors)
    if config:
        path = folder / case.file
        content = json.loads(path.read_text())
        content[case.key] |= config
        path.write_text(json.dumps(content))
    quantized.read_modules(folder)


def setting(role: str, value: float) -> Change:
    def change(tensors: quantized.Tensors) -> None:
        tensors[role] = tensors[role].copy()
        tensors[role].reshape(-1)[-1] = value

    return change


def swapped(role: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda tensors: tensors.update({role: make(tensors[role])})


W = r"model\.layers\.0\.mlp\.gate_proj\."
FAULTS: dict[str, tuple[str, Change, str]] = {
    "no scales": (
        "compressed-tensors FP8_DYNAMIC",
        lambda t: t.pop("weight_scale"),
        rf"{W}weight is F8_E4M3 and has no {W}weight_scale;",
    ),
    "no total": (
        "ModelOpt NVFP4",
        lambda t: t.pop("weight_scale_2"),
        rf"{W}weight is U8 and has no {W}weight_scale_2 \({W}weight_scale is there\)",
    ),
    "no total of compressed-tensors": (
        "compressed-tensors NVFP4",
        lambda t: t.pop("weight_global_scale"),
        rf"{W}weight_packed is U8 and has no {W}weight_global_scale",
    ),
    "no shape": ("compressed-tensors W4A16", lambda t: t.pop("weight_shape"), rf"has no {W}weight_shape"),
    "no zero points": (
        "compressed-tensors W4A16, zero points",
        lambda t: t.pop("weight_zero_point"),
        rf"has no {W}weight_zero_point, but config.json: quantization_config gives symmetric: false",
    ),
    "no qzeros": ("GPTQ 4 bits", lambda t: t.pop("qzeros"), rf"{W}qweight is I32 and has no {W}qzeros"),
    "no qweight": (
        "AWQ",
        lambda t: t.pop("qweight"),
        rf"{W}qzeros is there, but not its weights, .*qweight",
    ),
    "no absmax": ("bitsandbytes NF4", lambda t: t.pop("weight.absmax"), rf"has no {W}weight\.absmax"),
    "no state": (
        "bitsandbytes NF4",
        lambda t: t.pop("weight.quant_state.bitsandbytes__nf4"),
        rf"has no {W}weight\.quant_state\.bitsandbytes__nf4",
    ),
    "no nested magnitudes": (
        "bitsandbytes NF4, double",
        lambda t: t.pop("weight.nested_absmax"),
        r"there is no .*gate_proj\.weight\.nested_absmax",
    ),
    "no SCB": ("bitsandbytes INT8", lambda t: t.pop("SCB"), rf"{W}weight is I8 and has no {W}SCB"),
    "no biases": ("MLX 4 bits", lambda t: t.pop("biases"), rf"{W}weight is U32 and has no {W}biases"),
    "no scales of blocks": ("MXFP4", lambda t: t.pop("scales"), rf"{W}blocks is U8 and has no {W}scales"),
    "scales of another type": (
        "GPTQ 4 bits",
        swapped("scales", lambda a: a.view(np.uint8)),
        rf"{W}scales is U8; must be F32 or BF16 or F16 beside {W}qweight \(I32\)",
    ),
    "scales of another shape": (
        "FP8 blocks",
        swapped("weight_scale_inv", lambda _: np.ones((3, 2), np.float32)),
        rf"{W}weight_scale_inv has shape \[3, 2\] beside {W}weight \[128, 256\] F8_E4M3; must divide the 128 rows",
    ),
    "empty scales": (
        "FP8 blocks",
        swapped("weight_scale_inv", lambda _: np.ones((0, 2), np.float32)),
        rf"{W}weight_scale_inv is empty, \[0, 2\], beside {W}weight",
    ),
    "empty weights": (
        "compressed-tensors W8A8",
        swapped("weight", lambda a: a[:0]),
        rf"{W}weight is empty, \[0, 256\]",
    ),
    "groups of an odd size": (
        "compressed-tensors W4A16",
        swapped("weight_scale", lambda a: a[:, :7]),
        rf"{W}weight_scale has shape \[128, 7\].*must have groups that divide 256 columns",
    ),
    "rows of another number": (
        "ModelOpt NVFP4",
        swapped("weight_scale", lambda a: a[:64]),
        rf"{W}weight_scale has shape \[64, 16\].*must be 128 rows",
    ),
    "a group that does not exist": (
        "GPTQ 4 bits, desc_act",
        setting("g_idx", 8),
        rf"{W}g_idx .*must hold numbers of 8 groups",
    ),
    "shape of another matrix": (
        "compressed-tensors W4A16",
        setting("weight_shape", 255 * 4),
        "are of bits",
    ),
    "NaN scale": ("compressed-tensors FP8_DYNAMIC", setting("weight_scale", np.nan), rf"{W}weight_scale holds NaN"),
    "NaN weights": ("FP8 blocks", setting("weight", np.nan), rf"{W}weight holds NaN"),
    "infinite scale": ("AWQ", setting("scales", np.inf), rf"{W}scales holds NaN, infinite"),
    "NaN exponent": ("MXFP4", setting("scales", 255), rf"{W}scales holds NaN"),
    "NaN total": ("ModelOpt NVFP4", setting("weight_scale_2", np.nan), rf"{W}weight_scale_2 holds NaN"),
    "total of zero, to divide by": (
        "compressed-tensors NVFP4",
        setting("weight_global_scale", 0),
        rf"{W}weight_global_scale holds NaN, infinite or impossible",
    ),
    "NaN magnitude": ("bitsandbytes NF4", setting("weight.absmax", np.nan), rf"{W}weight\.absmax holds NaN"),
    "NaN SCB": ("bitsandbytes INT8", setting("SCB", np.nan), rf"{W}SCB holds NaN"),
    "NaN bias": ("MLX 4 bits", setting("biases", np.nan), rf"{W}biases holds NaN"),
    "columns instead of rows": (
        "bitsandbytes INT8",
        setting("weight_format", 1),
        rf"{W}weight_format .*must hold 0, weights in rows",
    ),
}


@pytest.mark.parametrize(("name", "change", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_one_line_that_names_both(tmp_path: Path, name: str, change: Change, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        read_changed(tmp_path, name, change)
    assert "\n" not in str(error.value)
    assert "model.safetensors: " in str(error.value)


CONTRADICTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bits of compressed-tensors": (
        "compressed-tensors W4A16",
        quantized.compressed("pack-quantized", num_bits=8, type="int", strategy="group", group_size=32),
        r"companions are of bits 4 for each of 256 columns, but config.json: quantization_config gives 8",
    ),
    "group size of compressed-tensors": (
        "compressed-tensors W4A16",
        quantized.compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=128),
        "of group size 32, but config.json: quantization_config gives 128",
    ),
    "bits of GPTQ": ("GPTQ 4 bits", {"bits": 8}, "of bits 4, but config.json: quantization_config gives 8"),
    "group size of AWQ": ("AWQ", {"group_size": 128}, "of group size 32, but .* gives 128"),
    "bits of MLX": (
        "MLX 4 bits",
        {"bits": 8},
        "of bits and group size 256 bits a group, but .* gives 8 bits in groups of 64",
    ),
}


@pytest.mark.parametrize(("name", "config", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_configuration_that_the_tensors_contradict_is_refused(
    tmp_path: Path, name: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_changed(tmp_path, name, lambda _: None, config)


METHODS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"quant_method": "hqq"}, "quantized with hqq, which is not read"),
    "torchao": (
        {"quant_method": "torchao"},
        "quantized with torchao, which is not read.* plain, convert with --ignore-config quantization_config$",
    ),
    "not a text": ({"quant_method": 4}, r"quantization_config\.quant_method is 4; must be a text"),
    "no name": ({"a": 1}, "quantization_config has no quant_method"),
    "a layout of AWQ": ({"quant_method": "awq", "version": "marlin"}, r"version is .marlin.; must be one of gemm"),
    "a layout of GPTQ": (
        {"quant_method": "gptq", "checkpoint_format": "marlin"},
        r"checkpoint_format is .marlin.; must be one of gptq",
    ),
    "a layout of AutoRound": (
        {"quant_method": "auto-round", "packing_format": "auto_round:exllamav2"},
        r"packing_format is .auto_round:exllamav2.; must be one of auto_round:auto_gptq",
    ),
    "block of three": (
        {"quant_method": "fp8", "weight_block_size": [1, 2, 3]},
        r"weight_block_size is \[1, 2, 3\]; must be rows and columns",
    ),
    "a mode of MLX": ({"group_size": 64, "bits": 4, "mode": "mxfp8"}, "mode is .mxfp8.; must be one of affine"),
}


@pytest.mark.parametrize("text", ["9" * 5000 + "x1", "1x" + "9" * 5000, "9" * 30 + "x1", "1x0", "1", "", "x", "1x1x1"])
def test_blocks_in_a_text_that_are_no_blocks(text: str) -> None:
    section = {"quant_method": "fp8", "weight_block_size": text}
    with pytest.raises(CheckpointError, match="weight_block_size is .*; must be rows and columns") as caught:
        find_method({"quantization_config": section}, Path("x"))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("config", "message"), METHODS.values(), ids=METHODS.keys())
def test_a_method_that_is_not_read_is_refused_by_name(
    checkpoint: Callable[..., Path], tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = saved_tensors.changed(checkpoint(), tmp_path / "folder", lambda tensors: tensors)
    saved_tensors.edit_json(folder / "config.json", lambda c: c.update(quantization_config=config))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["GPTQ 4 bits", "compressed-tensors W4A16", "ModelOpt NVFP4", "MLX 4 bits"])
def test_packed_weights_without_a_description_are_refused(
    checkpoint: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    case = quantized.CASES[name]
    folder = quantized.quantize(checkpoint(), tmp_path / "folder", case)
    saved_tensors.edit_json(folder / case.file, lambda c: c.pop(case.key))
    with pytest.raises(CheckpointError, match="restore its quantization_config"):
        open_checkpoint(folder)


def test_a_fault_that_shows_while_weights_are_read_leaves_no_file(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = quantized.quantize(checkpoint(), tmp_path / "folder", quantized.CASES["FP8 blocks"])

    def change(tensors: quantized.Tensors) -> None:
        name = max(name for name in tensors if name.endswith("weight_scale_inv"))
        tensors[name][-1, -1] = np.nan

    broken = saved_tensors.changed(folder, tmp_path / "broken", change)
    with pytest.raises(CheckpointError, match="weight_scale_inv holds NaN"):
        hf_to_gguf.convert(broken, "Q4_K_M", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


EXCLUDED: dict[str, tuple[str, dict[str, Any]]] = {
    "a pattern": ("compressed-tensors W8A8", {"ignore": ["re:.*down_proj"]}),
    "a name": ("FP8 blocks", {"modules_to_not_convert": ["model.language_model.layers.0.mlp.down_proj"]}),
    "a part of a name": ("AWQ", {"modules_to_not_convert": ["down_proj"]}),
    "a wildcard": ("ModelOpt NVFP4", {"exclude_modules": ["*down_proj*"]}),
    "a rule of GPTQ": ("GPTQ 4 bits", {"dynamic": {"-:.*down_proj": {}}}),
}


@pytest.mark.parametrize(("name", "config"), EXCLUDED.values(), ids=EXCLUDED.keys())
def test_excluded_modules_that_are_stored_quantized_are_read_with_a_note(
    checkpoint: Callable[..., Path], tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    case = quantized.CASES[name]
    folder = quantized.quantize(checkpoint(), tmp_path / "folder", case)
    saved_tensors.edit_json(folder / case.file, lambda c: c[case.key].update(config))
    opened = open_checkpoint(folder)
    assert len(opened.quantized) == 26
    assert any("from quantization, but" in note and "down_proj" in note for note in opened.notes)


def test_modules_that_are_not_quantized_are_read_as_they_are(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = quantized.quantize(checkpoint(), tmp_path / "folder", quantized.CASES["GPTQ 4 bits"])
    plain = saved_tensors.read(checkpoint() / "model.safetensors")
    name = "model.language_model.layers.0.mlp.down_proj."

    def change(tensors: quantized.Tensors) -> quantized.Tensors:
        kept = {key: value for key, value in tensors.items() if not key.startswith(name)}
        return kept | {name + "weight": plain[name + "weight"]}

    opened = open_checkpoint(saved_tensors.changed(folder, tmp_path / "mixed", change))
    assert len(opened.quantized) == 25
    np.testing.assert_array_equal(opened.read("layers.0.mlp.down_proj.weight"), plain[name + "weight"])


SAVED = {name: case for name, case in quantized.CASES.items() if name not in ("AWQ GEMV", "GPTQ 2 bits", "MLX 3 bits")}


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(sorted(SAVED)), st.data())
def test_no_damage_of_a_companion_is_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    case = SAVED[name]
    tensors = case.store(np.random.default_rng(0), 32, 128)
    role = data.draw(st.sampled_from(sorted(tensors)))
    kind = data.draw(st.sampled_from(["shape", "dtype", "absent", "renamed"]))
    if kind == "shape":
        shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
        tensors[role] = np.resize(tensors[role], shape).astype(tensors[role].dtype)
    elif kind == "dtype":
        dtype = data.draw(st.sampled_from(list(saved_tensors.NAMES)))
        with np.errstate(all="ignore"):
            tensors[role] = tensors[role].astype(np.float32).astype(dtype)
    else:
        taken = tensors.pop(role)
        if kind == "renamed":
            tensors[data.draw(st.sampled_from(["weight_scale_inv", "scales", "g_idx", "weight", "qweight"]))] = taken
    folder = quantized.write_module(tmp_path_factory.mktemp("damaged"), case, tensors)
    message = ""
    try:
        for tensor in quantized.open_modules(folder).values():
            if np.prod(tensor.shape) < 1 << 20:
                tensor.read()
    except Qwen35Error as error:
        message = str(error)
    assert "\n" not in message
