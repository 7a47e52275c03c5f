"""Layouts without a library that runs here: their definitions, written out plainly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs import quantized

pytestmark = pytest.mark.unit

ROWS, COLUMNS = 64, 128
Array = np.ndarray[Any, np.dtype[Any]]


def read(folder: Path, config: dict[str, Any], tensors: quantized.Tensors, module: str = quantized.MODULE) -> Array:
    case = quantized.Case(config, lambda *_: {})
    (found,) = quantized.read_modules(quantized.write_module(folder, case, tensors, module)).values()
    return found


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


MODELOPT = {"quant_method": "modelopt", "quant_algo": "any"}


@pytest.mark.parametrize(
    "shape", [(), (1,), (ROWS,), (ROWS, 1), (4, 2), (4, 1, 2, 1)], ids=lambda shape: "x".join(map(str, shape)) or "one"
)
def test_modelopt_fp8_scales_may_be_one_rows_or_blocks(
    tmp_path: Path, random: np.random.Generator, shape: tuple[int, ...]
) -> None:
    weights, scales = quantized.float8(random, ROWS, COLUMNS), quantized.scales(random, *shape)
    grid = scales.reshape([size for size in shape if size > 1] or [1])
    grid = grid[:, None] if grid.ndim == 1 else grid
    full = np.repeat(np.repeat(grid, ROWS // grid.shape[0], 0), COLUMNS // grid.shape[1], 1)
    found = read(tmp_path, MODELOPT, {"weight": weights, "weight_scale": scales, "input_scale": scales})
    np.testing.assert_array_equal(found, weights.astype(np.float32) * full)


def test_fp8_may_have_one_scale_under_the_older_name(tmp_path: Path, random: np.random.Generator) -> None:
    weights, scale = quantized.float8(random, ROWS, COLUMNS), quantized.scales(random)
    config = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
    found = read(tmp_path, config, {"weight": weights, "weight_scale": scale, "input_scale": scale})
    np.testing.assert_array_equal(found, weights.astype(np.float32) * scale)


def test_modelopt_int4_has_two_rows_a_byte(tmp_path: Path, random: np.random.Generator) -> None:
    values = random.integers(-8, 8, (ROWS, COLUMNS))
    scales = quantized.scales(random, ROWS, COLUMNS // 32)
    packed = (values[0::2] & 15 | (values[1::2] & 15) << 4).astype(np.uint8)
    before = quantized.scales(random, COLUMNS)
    found = read(tmp_path, MODELOPT, {"weight": packed, "weight_scale": scales, "pre_quant_scale": before})
    expected = values.astype(np.float32) * np.repeat(scales, 32, 1) * before
    np.testing.assert_array_equal(found, expected)


def test_awq_gemv_is_in_order(tmp_path: Path, random: np.random.Generator) -> None:
    values, zeros = random.integers(0, 16, (ROWS, COLUMNS)), random.integers(0, 16, (ROWS, 8))
    scales = quantized.scales(random, ROWS, 8).astype(np.float16)
    tensors = {"qweight": quantized.pack(values, 4), "qzeros": quantized.pack(zeros, 4), "scales": scales}
    found = read(tmp_path, quantized.AWQ | {"version": "gemv"}, tensors)
    expected = (values - np.repeat(zeros[:, :4], 32, 1)) * np.repeat(scales[:, :4].astype(np.float32), 32, 1)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_reordered_columns_have_the_group_of_their_index(tmp_path: Path, random: np.random.Generator) -> None:
    values, zeros = random.integers(-8, 8, (ROWS, COLUMNS)), random.integers(-8, 8, (ROWS, 4))
    scales, order = quantized.scales(random, ROWS, 4), random.permutation(np.arange(COLUMNS) // 32)
    tensors = {
        "weight_packed": quantized.pack(values + 8, 4),
        "weight_scale": scales,
        "weight_shape": np.array([ROWS, COLUMNS], np.int64),
        "weight_zero_point": np.ascontiguousarray(quantized.pack((zeros + 8).T, 4).T),
        "weight_g_idx": order.astype(np.int32),
    }
    config = quantized.compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32)
    found = read(tmp_path, config, tensors)
    np.testing.assert_array_equal(found, ((values - zeros[:, order]) * scales[:, order]).astype(np.float32))


def test_an_index_that_was_not_set_means_columns_in_order(tmp_path: Path, random: np.random.Generator) -> None:
    case = quantized.CASES["compressed-tensors W4A16"]
    tensors = case.store(random, ROWS, COLUMNS)
    expected = read(tmp_path / "a", case.config, tensors)
    found = read(tmp_path / "b", case.config, tensors | {"weight_g_idx": np.full(COLUMNS, -1, np.int32)})
    np.testing.assert_array_equal(found, expected)


def test_gptq_without_an_index_has_columns_in_order(tmp_path: Path, random: np.random.Generator) -> None:
    case = quantized.CASES["GPTQ 4 bits"]
    tensors = case.store(random, ROWS, COLUMNS)
    expected = read(tmp_path / "a", case.config, tensors)
    del tensors["g_idx"]
    np.testing.assert_array_equal(read(tmp_path / "b", case.config, tensors), expected)


def test_gptq_reads_the_bits_of_each_module(tmp_path: Path, random: np.random.Generator) -> None:
    config = quantized.GPTQ | {"bits": 4, "dynamic": {"+:.*gate_proj": {"bits": 8, "group_size": 64}}}
    tensors = quantized.gptq(8, group=64)(random, ROWS, COLUMNS)
    expected = read(tmp_path / "a", quantized.GPTQ | {"bits": 8, "group_size": 64}, tensors)
    np.testing.assert_array_equal(read(tmp_path / "b", config, tensors), expected)


def test_mlx_reads_the_settings_of_each_module(tmp_path: Path, random: np.random.Generator) -> None:
    tensors = quantized.mlx(8, 32)(random, ROWS, COLUMNS)
    one = {"group_size": 32, "bits": 8}
    expected = read(tmp_path / "a", one, tensors)
    named = {"group_size": 64, "bits": 4, quantized.MODULE.removesuffix("."): one}
    np.testing.assert_array_equal(read(tmp_path / "b", named, tensors), expected)


def test_mlx_nvfp4_has_no_total(tmp_path: Path, random: np.random.Generator) -> None:
    words = quantized.words(random, ROWS, COLUMNS // 8).view(np.uint32)
    scales = np.abs(quantized.float8(random, ROWS, COLUMNS // 16).astype(np.float32)).astype(quantized.FLOAT8)
    config = {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    found = read(tmp_path / "a", config, {"weight": words, "scales": scales.view(np.uint8)})
    modelopt = {"weight": words.view(np.uint8), "weight_scale": scales, "weight_scale_2": np.ones((), np.float32)}
    np.testing.assert_array_equal(found, read(tmp_path / "b", MODELOPT, modelopt))


def test_blocks_that_do_not_divide_the_weights_are_those_of_the_configuration(
    tmp_path: Path, random: np.random.Generator
) -> None:
    weights, scales = quantized.float8(random, 300, 200), quantized.scales(random, 3, 2)
    full = np.repeat(np.repeat(scales, 128, 0)[:300], 128, 1)[:, :200]
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    found = read(tmp_path, config, {"weight": weights, "weight_scale_inv": scales})
    np.testing.assert_array_equal(found, weights.astype(np.float32) * full)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1), (3, ROWS, 1), (3, 2, 4)])
def test_each_expert_of_a_stack_has_its_scales(
    tmp_path: Path, random: np.random.Generator, shape: tuple[int, ...]
) -> None:
    weights, scales = quantized.float8(random, 3, ROWS, COLUMNS), quantized.scales(random, *shape)
    grid = scales.reshape(3, *((*shape[1:], 1, 1)[:2]))
    full = np.repeat(np.repeat(grid, ROWS // grid.shape[1], 1), COLUMNS // grid.shape[2], 2)
    tensors = {"gate_up_proj": weights, "gate_up_proj_scale_inv": scales}
    found = read(tmp_path, {"quant_method": "fp8"}, tensors, "model.layers.0.mlp.experts.")
    np.testing.assert_array_equal(found, weights.astype(np.float32) * full)


@pytest.mark.parametrize(("name", "layout"), [("GPTQ 4 bits", "auto_gptq"), ("AWQ", "auto_awq")])
def test_auto_round_stores_in_the_layouts_of_others(
    tmp_path: Path, random: np.random.Generator, name: str, layout: str
) -> None:
    case = quantized.CASES[name]
    tensors = case.store(random, ROWS, COLUMNS)
    config = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "packing_format": f"auto_round:{layout}"}
    np.testing.assert_array_equal(read(tmp_path / "a", config, tensors), read(tmp_path / "b", case.config, tensors))


def test_biases_of_zeros_are_left_out(tmp_path: Path, random: np.random.Generator) -> None:
    case = quantized.CASES["GPTQ 4 bits"]
    tensors = case.store(random, ROWS, COLUMNS) | {"bias": np.zeros(ROWS, np.float16)}
    folder = quantized.write_module(tmp_path, case, tensors)
    assembled = quantized.assembled(folder)
    assert list(assembled.tensors) == ["layers.0.mlp.gate_proj.weight"]
    assert "1 biases hold only zeros and are left out: the model has none" in assembled.notes
    tensors["bias"][3] = 1
    assert len(quantized.assembled(quantized.write_module(tmp_path, case, tensors)).tensors) == 2


def test_a_method_is_recognized_by_its_keys(tmp_path: Path, random: np.random.Generator) -> None:
    case = quantized.CASES["MLX 4 bits"]
    tensors = case.store(random, ROWS, COLUMNS)
    expected = quantized.read_modules(quantized.write_module(tmp_path, case, tensors))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": case.config}))  # as mlx-lm repeats it
    found = quantized.read_modules(tmp_path)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_description_may_be_that_of_the_text_model(tmp_path: Path, random: np.random.Generator) -> None:
    case = quantized.CASES["GPTQ 4 bits"]
    quantized.write_module(tmp_path, case, case.store(random, ROWS, COLUMNS))
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"quantization_config": case.config}}))
    assert len(quantized.read_modules(tmp_path)) == 1
