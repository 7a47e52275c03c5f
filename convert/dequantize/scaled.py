"""8-bit weights with a grid of scales: one for the tensor, a row, a block, or a group of columns.

Layouts: compressed-tensors (compressors/naive_quantized, mxfp8), transformers (integrations/finegrained_fp8.py,
fbgemm_fp8.py), ModelOpt (torch/export/quant_utils.py), bitsandbytes (functional.py, int8_vectorwise_dequant).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from qwen35_gguf.convert.dequantize import codes
from qwen35_gguf.convert.dequantize.quantized_tensor import (
    Arrays,
    Layout,
    Module,
    ScaleError,
    finite,
    multiply_groups,
    subtract_groups,
)

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]

EXPONENTS = ("U8", "F8_E8M0")
INT8_SCALE = np.float32(7.874015718698502e-3)  # 1 / 127, as bitsandbytes rounds it


def plan(module: Module, scale: str = "weight_scale", zero: str = "weight_zero_point") -> Layout:
    """Weights times their scales: `weight` (rows, columns) FP8 or int8, `scale` a grid over it, with zero points."""
    rows, columns = _matrix(module)
    grid = _grid(module.shape(scale))
    if grid is None or 0 in grid:
        raise module.misfit(scale, "must be one scale, one for each row, or a grid of blocks")
    if zero in module.tensors and _grid(module.shape(zero)) != grid:
        raise module.misfit(zero, f"must be {list(grid)}, as {scale}")
    block = next((block for block in module.settings.blocks if _cover((rows, columns), block) == grid), None)
    if block is None:
        if grid[0] == rows and len(module.shape(scale)) == 1:
            block = (1, columns)
        elif rows % grid[0] or columns % grid[1]:
            raise module.misfit(scale, f"must divide the {rows} rows and {columns} columns of the weights")
        else:
            block = (rows // grid[0], columns // grid[1])
    compute = partial(_compute, scale=scale, zero=zero, grid=grid, block=block, dtype=module.dtype("weight"))
    return Layout((rows, columns), partial(compute, exponents=module.dtype(scale) in EXPONENTS))


def plan_int8(module: Module) -> Layout:
    """Bitsandbytes LLM.int8(): `weight` (rows, columns) int8, `SCB` (rows,) the largest magnitude of each row."""
    rows, columns = _matrix(module)
    module.check("SCB", (rows,))
    if "weight_format" in module.tensors and module.array("weight_format").any():
        raise module.misfit("weight_format", "must hold 0, weights in rows")

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        weights = arrays["weight"][start:stop].astype(np.float32)
        weights *= finite(arrays["SCB"][start:stop], "SCB")[:, None]
        weights *= INT8_SCALE
        return weights

    return Layout((rows, columns), compute)


def _matrix(module: Module) -> tuple[int, int]:
    shape = module.shape("weight")
    if len(shape) != 2 or 0 in shape:
        raise module.misfit("weight", "must be a matrix that is not empty")
    return shape[0], shape[1]


def _grid(shape: Shape) -> tuple[int, int] | None:
    """Return the rows and columns of a grid of scales, or None. Axes of length 1 between them are ModelOpt's."""
    if len(shape) == 4 and shape[1] == shape[3] == 1:
        shape = (shape[0], shape[2])
    if len(shape) > 2:
        return None
    rows, columns = (*shape, 1, 1)[:2]
    return rows, columns


def _cover(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def _compute(
    arrays: Arrays,
    start: int,
    stop: int,
    *,
    scale: str,
    zero: str,
    grid: tuple[int, int],
    block: tuple[int, int],
    dtype: str,
    exponents: bool,
) -> Array:
    stored = arrays["weight"][start:stop]
    weights = codes.float8(stored, dtype) if dtype in codes.FLOAT8 else stored.astype(np.float32)
    chosen = np.arange(start, stop) // block[0] if grid[0] > 1 else np.zeros(1, np.intp)
    if zero in arrays:
        subtract_groups(weights, arrays[zero].reshape(grid)[chosen].astype(np.float32), block[1])
    found = arrays[scale].reshape(grid)[chosen]
    if exponents:
        found = codes.powers_of_two(found)
    if not np.isfinite(weights).all():
        raise ScaleError("weight")
    return multiply_groups(weights, finite(found, scale), block[1])
