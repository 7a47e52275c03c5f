"""Weights are those that compressed-tensors, bitsandbytes and transformers make of what they quantized themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from inputs import quantized

ROWS, COLUMNS = 256, 384
Array = np.ndarray[Any, np.dtype[Any]]


def weights(seed: int = 0, rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(seed)) / COLUMNS**0.5


def as_numpy(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def read(
    folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], module: str = quantized.MODULE
) -> Array:
    arrays = {role: as_numpy(tensor) for role, tensor in tensors.items()}
    case = quantized.Case(config, lambda *_: {})
    (found,) = quantized.read_modules(quantized.write_module(folder, case, arrays, module)).values()
    return found


def compressed_cases() -> dict[str, tuple[str, dict[str, Any]]]:
    float8, int8 = {"num_bits": 8, "type": "float"}, {"num_bits": 8, "type": "int"}
    float4 = {"num_bits": 4, "type": "float"}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "FP8, tensor": ("float-quantized", {**float8, "strategy": "tensor"}),
        "FP8, channel": ("float-quantized", {**float8, "strategy": "channel"}),
        "FP8, block": ("float-quantized", {**float8, "strategy": "block", "block_structure": [128, 128]}),
        "INT8, channel": ("int-quantized", {**int8, "strategy": "channel"}),
        "INT8, channel, zero points": ("int-quantized", {**int8, "strategy": "channel", "symmetric": False}),
        "INT8, tensor": ("int-quantized", {**int8, "strategy": "tensor"}),
        "MXFP4": ("mxfp4-pack-quantized", {**float4, "strategy": "group", "group_size": 32}),
        "NVFP4": ("nvfp4-pack-quantized", {**float4, "strategy": "tensor_group", "group_size": 16}),
    }
    for bits in (2, 3, 4, 5, 6, 7, 8):
        for symmetric in (True, False):
            args = {"num_bits": bits, "type": "int", "symmetric": symmetric}
            named = f"{bits} bits, {'symmetric' if symmetric else 'zero points'}"
            cases[f"{named}, groups"] = ("pack-quantized", {**args, "strategy": "group", "group_size": 64})
            cases[f"{named}, channel"] = ("pack-quantized", {**args, "strategy": "channel"})
    return cases


COMPRESSED = compressed_cases()


def grid(args: dict[str, Any]) -> tuple[int, int]:
    strategy = args["strategy"]
    if strategy == "tensor":
        return (1, 1)
    if strategy == "channel":
        return (ROWS, 1)
    if strategy == "block":
        return (-(-ROWS // 128), -(-COLUMNS // 128))
    return (ROWS, COLUMNS // args["group_size"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["F32 scales", "BF16 scales"])
@pytest.mark.parametrize(("format_", "args"), COMPRESSED.values(), ids=COMPRESSED.keys())
def test_compressed_tensors(tmp_path: Path, format_: str, args: dict[str, Any], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = grid(args)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    largest = {"float": 448.0 if args["num_bits"] == 8 else 6.0, "int": 2.0 ** (args["num_bits"] - 1)}[args["type"]]
    scale = (0.25 * (0.5 + torch.rand(shape, generator=generator)) / largest).to(dtype)
    state: dict[str, torch.Tensor] = {"weight": weights()}
    if format_.startswith("mxfp4"):
        scale = torch.exp2(torch.round(torch.log2(scale.float()))).to(dtype)
    if format_.startswith("nvfp4"):
        state["weight_global_scale"] = torch.tensor([448.0 * 4])
        scale = (scale.float() * state["weight_global_scale"]).to(torch.float8_e4m3fn).float()
    state["weight_scale"] = scale
    if args.get("symmetric") is False:
        half = 1 << (args["num_bits"] - 1)
        state["weight_zero_point"] = torch.randint(-half, half, shape, generator=generator).to(torch.int8)
    compressor = BaseCompressor.get_value_from_registry(format_)
    stored = compressor.compress(state, scheme)
    expected = as_numpy(compressor.decompress(stored, scheme)["weight"])
    found = read(tmp_path, quantized.compressed(format_, **args), stored)
    # The library returns the type of the scales (BF16 for 4-bit floats): one rounding of what is computed here.
    np.testing.assert_array_equal(found.astype(expected.dtype), expected)
    if dtype == torch.float32 and "fp4" not in format_:
        assert expected.dtype == np.float32


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "double quantization"])
@pytest.mark.parametrize("block", [64, 128, 4096])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_4_bits(tmp_path: Path, kind: str, block: int, nested: bool) -> None:
    packed, state = bitsandbytes.functional.quantize_4bit(
        weights(), blocksize=block, compress_statistics=nested, quant_type=kind
    )
    expected = bitsandbytes.functional.dequantize_4bit(packed, state).numpy()
    tensors = {"weight": packed} | {f"weight.{role}": value for role, value in state.as_dict(packed=True).items()}
    found = read(tmp_path, quantized.BNB, tensors)
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=0)


def test_bitsandbytes_4_bits_stored_as_another_type(tmp_path: Path) -> None:
    packed, state = bitsandbytes.functional.quantize_4bit(weights(), quant_type="nf4", quant_storage=torch.bfloat16)
    expected = bitsandbytes.functional.dequantize_4bit(packed, state).numpy()
    tensors = {"weight": packed} | {f"weight.{role}": value for role, value in state.as_dict(packed=True).items()}
    np.testing.assert_allclose(read(tmp_path, quantized.BNB, tensors), expected, rtol=3e-7, atol=0)


def test_bitsandbytes_int8(tmp_path: Path) -> None:
    codes, largest, _ = bitsandbytes.functional.int8_vectorwise_quant(weights())
    expected = bitsandbytes.functional.int8_vectorwise_dequant(codes, largest).numpy()
    tensors = {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    np.testing.assert_array_equal(read(tmp_path, {"quant_method": "bitsandbytes"}, tensors), expected)


FP8_GRIDS: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "F32": ((2, 3), lambda scale: scale),
    "BF16": ((2, 3), lambda scale: scale.bfloat16()),
    "exponents": ((2, 3), lambda scale: torch.exp2(torch.round(torch.log2(scale))).to(torch.float8_e8m0fnu)),
    "rows": ((ROWS, 1), lambda scale: scale),
    "one": ((1, 1), lambda scale: scale),
    "smaller blocks": ((4, 6), lambda scale: scale),
}


@pytest.mark.parametrize(("shape", "change"), FP8_GRIDS.values(), ids=FP8_GRIDS.keys())
def test_fp8_blocks_of_transformers(
    tmp_path: Path, shape: tuple[int, ...], change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    scale = change(torch.rand(shape, generator=torch.Generator().manual_seed(2)) / 448)
    stored = (weights() * 448).clamp(-448, 448).to(torch.float8_e4m3fn)
    expected = Fp8Dequantize(None)._dequantize_one(stored, scale, torch.float32).numpy()
    if scale.dtype == torch.float8_e8m0fnu:
        scale = scale.view(torch.uint8)
    tensors = {"weight": stored, "weight_scale_inv": scale}
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    np.testing.assert_array_equal(read(tmp_path, config, tensors), expected)


def test_fp8_experts_of_transformers(tmp_path: Path) -> None:
    stored = torch.stack([weights(seed) * 448 for seed in range(3)]).clamp(-448, 448).to(torch.float8_e4m3fn)
    scale = torch.rand((3, 2, 3), generator=torch.Generator().manual_seed(2)) / 448
    expected = Fp8Dequantize(None)._dequantize_one(stored, scale, torch.float32).numpy()
    found = read(
        tmp_path,
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"gate_up_proj": stored, "gate_up_proj_scale_inv": scale},
        "model.layers.0.mlp.experts.",
    )
    np.testing.assert_array_equal(found, expected)


def test_mxfp4_experts_of_transformers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    blocks = torch.from_numpy(quantized.bytes_of(random, 3, ROWS, COLUMNS // 32, 16))
    scales = torch.from_numpy(quantized.exponents(random, 3, ROWS, COLUMNS // 32))
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(1, 2).numpy()
    tensors = {"down_proj_blocks": blocks, "down_proj_scales": scales}
    found = read(tmp_path, {"quant_method": "mxfp4"}, tensors, "model.layers.0.mlp.experts.")
    np.testing.assert_array_equal(found, expected)
