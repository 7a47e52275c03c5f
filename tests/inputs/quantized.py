"""Quantized checkpoints: the matrices of a plain one, replaced by what each method stores.

The numbers of each format are chosen at random, not rounded from the weights: only how they are read matters. Written
with NumPy alone, so that tests need neither torch nor the libraries of the formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from inputs import saved_tensors
from qwen35_gguf.convert.dequantize.assemble import Assembled, assemble
from qwen35_gguf.convert.dequantize.methods import find_method
from qwen35_gguf.convert.dequantize.quantized_tensor import QuantizedTensor
from qwen35_gguf.convert.source_tensors.names import canonical_name
from qwen35_gguf.convert.source_tensors.safetensors_header import DTYPES, StoredTensor, read_header

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = dict[str, Array]
Store = Callable[[np.random.Generator, int, int], Tensors]

FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
GROUP = 32


def bytes_of(random: np.random.Generator, *shape: int) -> Array:
    return random.integers(0, 256, shape).astype(np.uint8)


def words(random: np.random.Generator, *shape: int) -> Array:
    return random.integers(-(2**31), 2**31, shape).astype(np.int32)


def scales(random: np.random.Generator, *shape: int) -> Array:
    """Scales that keep dequantized weights about as large as weights are."""
    return (random.uniform(0.5, 1.5, shape) * 2.0**-8).astype(np.float32)


def float8(random: np.random.Generator, *shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32).astype(FLOAT8)


def exponents(random: np.random.Generator, *shape: int) -> Array:
    return random.integers(118, 124, shape).astype(np.uint8)


def pack(values: Array, bits: int) -> Array:
    """Pack unsigned integers (rows, columns) into words without gaps, lowest bits first."""
    rows, columns = values.shape
    flags = (values[:, :, None] >> np.arange(bits) & 1).astype(np.uint8).reshape(rows, columns * bits)
    flags = np.pad(flags, ((0, 0), (0, -columns * bits % 32)))
    return np.packbits(flags, axis=1, bitorder="little").view(np.int32)


@dataclass(frozen=True)
class Case:
    """A way to store a matrix, and how config.json describes it.

    Attributes:
        config: its `quantization_config`.
        store: (random numbers, rows, columns) -> tensors by what follows the module's name.
        file: where the description is.
        key: in it.

    """

    config: dict[str, Any]
    store: Store
    file: str = "config.json"
    key: str = "quantization_config"
    more: dict[str, Any] = field(default_factory=dict)


def compressed(format_: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors",
        "format": format_,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*visual.*"],
    }


def packed(bits: int, *, group: int = GROUP, asymmetric: bool = False, order: bool = False) -> Store:
    def store(r: np.random.Generator, rows: int, columns: int) -> Tensors:
        groups = columns // group if group > 0 else 1
        found = {
            "weight_packed": words(r, rows, -(-columns * bits // 32)),
            "weight_scale": scales(r, rows, groups).astype(BFLOAT16),
            "weight_shape": np.array([rows, columns], np.int64),
        }
        if asymmetric:
            found["weight_zero_point"] = words(r, -(-rows * bits // 32), groups)
        if order:
            found["weight_g_idx"] = r.permutation(np.arange(columns) // group).astype(np.int32)
        return found

    return store


def gptq(bits: int, *, group: int = GROUP, order: bool = False) -> Store:
    def store(r: np.random.Generator, rows: int, columns: int) -> Tensors:
        groups = columns // group if group > 0 else 1
        size = group if group > 0 else columns
        index = np.arange(columns) // size
        return {
            "qweight": words(r, columns * bits // 32, rows),
            # One less than a zero point of 1 or more: the first layout of GPTQ cannot hold others.
            "qzeros": pack(r.integers(0, (1 << bits) - 1, (groups, rows)), bits),
            "scales": scales(r, groups, rows).astype(np.float16),
            "g_idx": (r.permutation(index) if order else index).astype(np.int32),
        }

    return store


def awq(r: np.random.Generator, rows: int, columns: int) -> Tensors:
    groups = columns // GROUP
    return {
        "qweight": words(r, columns, rows // 8),
        "qzeros": words(r, groups, rows // 8),
        "scales": scales(r, groups, rows).astype(np.float16),
    }


def gemv(r: np.random.Generator, rows: int, columns: int) -> Tensors:
    groups = columns // GROUP
    wide = -(-groups // 8) * 8
    return {
        "qweight": words(r, rows, columns // 8),
        "qzeros": words(r, rows, wide // 8),
        "scales": scales(r, rows, wide).astype(np.float16),
    }


def bitsandbytes(kind: str, *, nested: bool, block: int = 64) -> Store:
    def store(r: np.random.Generator, rows: int, columns: int) -> Tensors:
        blocks = rows * columns // block
        state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": [rows, columns]}
        found = {
            "weight": bytes_of(r, rows * columns // 2, 1),
            "weight.absmax": scales(r, blocks),
            "weight.quant_map": np.linspace(-1, 1, 16).astype(np.float32),
        }
        if nested:
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.02}
            found["weight.absmax"] = bytes_of(r, blocks)
            found["weight.nested_absmax"] = scales(r, -(-blocks // 256))
            found["weight.nested_quant_map"] = np.linspace(-1, 1, 256).astype(np.float32)
        text = json.dumps(state).encode()
        found[f"weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(text, np.uint8)
        return found

    return store


def mlx(bits: int, group: int) -> Store:
    def store(r: np.random.Generator, rows: int, columns: int) -> Tensors:
        shape = (rows, columns // group)
        return {
            "weight": words(r, rows, columns * bits // 32).view(np.uint32),
            "scales": scales(r, *shape).astype(BFLOAT16),
            "biases": scales(r, *shape).astype(BFLOAT16),
        }

    return store


def _fp8(*grid: Callable[[int], int], name: str = "weight_scale", more: Callable[..., Tensors] | None = None) -> Store:
    def store(r: np.random.Generator, rows: int, columns: int) -> Tensors:
        shape = [count(size) for count, size in zip(grid, (rows, columns), strict=False)]
        found = {"weight": float8(r, rows, columns), name: scales(r, *shape)}
        return found | (more(r) if more else {})

    return store


def _one(_size: int) -> int:
    return 1


def _each(size: int) -> int:
    return size


def _blocks(size: int) -> int:
    return -(-size // 128)


def _nvfp4(packed_name: str, total: str, value: float) -> Store:
    return lambda r, rows, columns: {
        packed_name: bytes_of(r, rows, columns // 2),
        "weight_scale": float8(r, rows, columns // 16).astype(np.float32).__abs__().astype(FLOAT8),
        total: np.array([value], np.float32),
    }


INT8: Store = lambda r, rows, columns: {  # noqa: E731
    "weight": bytes_of(r, rows, columns).view(np.int8),
    "weight_scale": scales(r, rows, 1) / 16,
}
INPUT: Callable[..., Tensors] = lambda _: {"input_scale": np.ones((), np.float32)}  # noqa: E731
GPTQ = {"quant_method": "gptq", "group_size": GROUP, "sym": False, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}

CASES: dict[str, Case] = {
    "compressed-tensors FP8, tensor": Case(
        compressed("float-quantized", num_bits=8, type="float", strategy="tensor"), _fp8(_one, more=INPUT)
    ),
    "compressed-tensors FP8_DYNAMIC": Case(
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"), _fp8(_each, _one)
    ),
    "compressed-tensors FP8_BLOCK": Case(
        compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[128, 128]),
        _fp8(_blocks, _blocks),
    ),
    "compressed-tensors W8A8": Case(compressed("int-quantized", num_bits=8, type="int", strategy="channel"), INT8),
    "compressed-tensors W4A16": Case(
        compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=GROUP), packed(4)
    ),
    "compressed-tensors W4A16, zero points": Case(
        compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=GROUP, symmetric=False),
        packed(4, asymmetric=True),
    ),
    "compressed-tensors W4A16, reordered": Case(
        compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=GROUP, actorder="group"),
        packed(4, order=True),
    ),
    "compressed-tensors W8A16": Case(
        compressed("pack-quantized", num_bits=8, type="int", strategy="channel"), packed(8, group=-1)
    ),
    "compressed-tensors W3A16": Case(
        compressed("pack-quantized", num_bits=3, type="int", strategy="group", group_size=GROUP), packed(3)
    ),
    "compressed-tensors NVFP4": Case(
        compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16),
        _nvfp4("weight_packed", "weight_global_scale", 50.0),
    ),
    "compressed-tensors MXFP4": Case(
        compressed("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32),
        lambda r, rows, columns: {
            "weight_packed": bytes_of(r, rows, columns // 2),
            "weight_scale": exponents(r, rows, columns // 32),
        },
    ),
    "compressed-tensors MXFP8": Case(
        compressed("mxfp8-quantized", num_bits=8, type="float", strategy="group", group_size=32),
        lambda r, rows, columns: {
            "weight": float8(r, rows, columns),
            "weight_scale": exponents(r, rows, columns // 32),
        },
    ),
    "ModelOpt FP8": Case(
        {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
        _fp8(more=INPUT),
        file="hf_quant_config.json",
        key="quantization",
        more={"producer": {"name": "modelopt", "version": "0.47.0"}},
    ),
    "ModelOpt NVFP4": Case(
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
        _nvfp4("weight", "weight_scale_2", 0.02),
    ),
    "GPTQ 4 bits": Case(GPTQ | {"bits": 4}, gptq(4)),
    "GPTQ 4 bits, desc_act": Case(GPTQ | {"bits": 4, "desc_act": True}, gptq(4, order=True)),
    "GPTQ 4 bits, v2": Case(GPTQ | {"bits": 4, "checkpoint_format": "gptq_v2"}, gptq(4)),
    "GPTQ 8 bits, whole rows": Case(GPTQ | {"bits": 8, "group_size": -1}, gptq(8, group=-1)),
    "GPTQ 3 bits": Case(GPTQ | {"bits": 3}, gptq(3)),
    "GPTQ 2 bits": Case(GPTQ | {"bits": 2}, gptq(2)),
    "AWQ": Case(AWQ, awq),
    "AWQ GEMV": Case(AWQ | {"version": "gemv"}, gemv),
    "bitsandbytes NF4": Case(BNB, bitsandbytes("nf4", nested=False)),
    "bitsandbytes NF4, double": Case(BNB, bitsandbytes("nf4", nested=True)),
    "bitsandbytes FP4": Case(BNB | {"bnb_4bit_quant_type": "fp4"}, bitsandbytes("fp4", nested=False)),
    "bitsandbytes INT8": Case(
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        lambda r, rows, columns: {
            "weight": bytes_of(r, rows, columns).view(np.int8),
            "SCB": scales(r, rows) * 8,
            "weight_format": np.zeros((), np.uint8),
        },
    ),
    "MXFP4": Case(
        {"quant_method": "mxfp4"},
        lambda r, rows, columns: {
            "blocks": bytes_of(r, rows, columns // 32, 16),
            "scales": exponents(r, rows, columns // 32),
        },
    ),
    "FP8 blocks": Case(
        {"quant_method": "fp8", "weight_block_size": [128, 128]}, _fp8(_blocks, _blocks, name="weight_scale_inv")
    ),
    "MLX 4 bits": Case({"group_size": 64, "bits": 4}, mlx(4, 64), key="quantization"),
    "MLX 6 bits": Case({"group_size": 32, "bits": 6, "mode": "affine"}, mlx(6, 32), key="quantization"),
    "MLX 3 bits": Case({"group_size": 64, "bits": 3}, mlx(3, 64), key="quantization"),
    "MLX MXFP4": Case(
        {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        lambda r, rows, columns: {
            "weight": words(r, rows, columns // 8).view(np.uint32),
            "scales": exponents(r, rows, columns // 32),
        },
        key="quantization",
    ),
}


MODULE = "model.layers.0.mlp.gate_proj."


def write_module(folder: Path, case: Case, tensors: Tensors, module: str = MODULE) -> Path:
    """Write the tensors of one module, and the file that describes them."""
    folder.mkdir(exist_ok=True)
    saved_tensors.write(folder / "model.safetensors", {module + role: array for role, array in tensors.items()})
    (folder / case.file).write_text(json.dumps(case.more | {case.key: case.config}))
    return folder


def read_modules(folder: Path) -> dict[str, Array]:
    """Read the quantized weights of a folder, by canonical name."""
    return {name: tensor.read() for name, tensor in open_modules(folder).items()}


def open_modules(folder: Path) -> dict[str, QuantizedTensor]:
    """Find the quantized weights of a folder, by canonical name."""
    found = assembled(folder)
    known = found.quantized
    return {name: known[one.name] for name, one in found.tensors.items() if one.name in known}


def assembled(folder: Path) -> Assembled:
    """Join the tensors of a folder."""
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else {}
    found = {canonical_name(stored.name): stored for stored in read_header(folder / "model.safetensors")}
    raw = (folder / "model.safetensors").read_bytes()

    def view(stored: StoredTensor) -> Array:
        return np.frombuffer(raw[stored.start : stored.stop], DTYPES[stored.dtype]).reshape(stored.shape)

    return assemble(found, find_method(config, folder), view)


def is_quantized(name: str, array: Array) -> bool:
    """Tell whether methods quantize a tensor: the projections of the text model."""
    return name.endswith("proj.weight") and array.ndim == 2 and "visual" not in name and "vision" not in name


def quantize(source: Path, target: Path, case: Case, seed: int = 0) -> Path:
    """Copy a checkpoint with its projections stored as of a case."""

    def change(tensors: Tensors) -> Tensors:
        random = np.random.default_rng(seed)
        changed: Tensors = {}
        for name, array in tensors.items():
            if is_quantized(name, array):
                module = name.removesuffix("weight")
                changed |= {module + key: value for key, value in case.store(random, *array.shape).items()}
            else:
                changed[name] = array
        return changed

    folder = saved_tensors.changed(source, target, change)
    path = folder / case.file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | case.more | {case.key: case.config}))
    return folder
