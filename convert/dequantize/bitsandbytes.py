"""bitsandbytes NF4 and FP4: 4-bit codes of a table in blocks of the flattened weights, with one magnitude a block.

With double quantization the magnitudes are 8-bit codes themselves. Layout: bitsandbytes (functional.py, QuantState;
nn/modules.py). Two weights a byte, the high half first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen35_gguf.convert.dequantize import codes
from qwen35_gguf.convert.dequantize.quantized_tensor import Arrays, Layout, Module, finite
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.json_file import NUMBER, SIZE, JsonObject, list_of, parse_json

Array = np.ndarray[Any, np.dtype[Any]]

STATE = "quant_state"
NESTED = ("nested_absmax", "nested_quant_map")


def plan(module: Module) -> Layout:
    """`weight` of bytes in any dtype, `absmax` (blocks,), `quant_map` (16,), and JSON with sizes, `quant_state`."""
    state = _state(module)
    shape = state.need("shape", list_of(SIZE))
    if len(shape) != 2:
        raise state.mistake("shape", "rows and columns")
    rows, columns = shape
    count = rows * columns
    weight = module.tensors["weight"]
    if weight.stop - weight.start != -(-count // 2):
        raise module.misfit("weight", f"must hold {count:,} weights of 4 bits, {shape} by {module.tensors[STATE].name}")
    size = state.need("blocksize", SIZE)
    blocks = -(-count // size)
    _need_shape(module, "absmax", (blocks,))
    _need_shape(module, "quant_map", (16,))
    nested = _nested(module, state, blocks)

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        first, last = start * columns, stop * columns
        octets = arrays["weight"].reshape(-1).view(np.uint8)[first // 2 : -(-last // 2)]
        table = finite(arrays["quant_map"], "quant_map")
        weights = codes.pairs(octets[None, :], table, high_first=True).reshape(-1)[: last - first]
        magnitudes = _magnitudes(arrays, first // size, -(-last // size), nested)
        whole = len(weights) // size * size  # the last block of all may be short
        weights[:whole].reshape(-1, size)[:] *= magnitudes[: whole // size, None]
        if whole < len(weights):
            weights[whole:] *= magnitudes[-1]
        return weights.reshape(stop - start, columns)

    return Layout((rows, columns), compute, step=_step(columns, size))


def _magnitudes(arrays: Arrays, first: int, last: int, nested: tuple[int, float] | None) -> Array:
    """Return the magnitudes of blocks `first` to before `last`, dequantized if they are codes themselves."""
    stored = arrays["absmax"][first:last]
    if nested is None:
        return finite(stored, "absmax")
    size, offset = nested
    outer = finite(arrays["nested_absmax"], "nested_absmax")[np.arange(first, last) // size]
    found: Array = finite(arrays["nested_quant_map"], "nested_quant_map")[stored] * outer + np.float32(offset)
    return found


def _state(module: Module) -> JsonObject:
    stored = module.tensors[STATE]
    return parse_json(bytes(module.array(STATE)), f"{stored.file}: {stored.name}")


def _nested(module: Module, state: JsonObject, blocks: int) -> tuple[int, float] | None:
    if module.dtype("absmax") != "U8":
        return None
    for role in NESTED:
        if role not in module.tensors:
            stored = module.tensors["absmax"]
            raise CheckpointError(
                f"{stored.file}: {stored.name} is quantized, but there is no {module.name}.weight.{role}; download it "
                "again"
            )
    size = state.need("nested_blocksize", SIZE)
    _need_shape(module, "nested_absmax", (-(-blocks // size),))
    _need_shape(module, "nested_quant_map", (256,))
    return size, float(state.need("nested_offset", NUMBER))


def _need_shape(module: Module, role: str, shape: tuple[int, ...]) -> None:
    if module.tensors[role].shape != shape:
        raise module.misfit(role, f"must be {list(shape)}")


def _step(columns: int, size: int) -> int:
    """Return the least number of rows that begin at a block and at a whole byte."""
    whole = size if size % 2 == 0 else 2 * size
    return whole // int(np.gcd(columns, whole))
