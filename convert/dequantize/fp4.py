"""4-bit floating-point weights (E2M1) in groups: NVFP4 (16, two levels of scales) and MXFP4 (32, powers of two).

Layouts: compressed-tensors (compressors/nvfp4, mxfp4), ModelOpt (torch/quantization/qtensor/nvfp4_tensor.py,
mxfp4_tensor.py), transformers (integrations/mxfp4.py), mlx (fp_quantized.h). Two weights a byte, the low half first.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from qwen35_gguf.convert.dequantize import codes
from qwen35_gguf.convert.dequantize.quantized_tensor import Arrays, Layout, Module, ScaleError, finite, multiply_groups

Array = np.ndarray[Any, np.dtype[Any]]


def plan_nvfp4(module: Module, weight: str, total: str, *, divide: bool) -> Layout:
    """`weight` (rows, columns / 2) uint8, `weight_scale` (rows, groups) E4M3, `total` one F32 scale of the scales.

    compressed-tensors stores the inverse of the total, to `divide` by.
    """
    rows, columns, size = _groups(module, weight, "weight_scale")
    module.check(total, (), (1,), (1, 1))

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        scales = finite(_float8(arrays["weight_scale"][start:stop]), "weight_scale")
        factor = finite(arrays[total].reshape(-1)[:1], total)
        if divide and not factor.all():
            raise ScaleError(total)
        scales = scales / factor if divide else scales * factor
        return multiply_groups(codes.pairs(arrays[weight][start:stop], codes.E2M1), scales, size)

    return Layout((rows, columns), compute)


def plan_mxfp4(module: Module, weight: str, scale: str) -> Layout:
    """`weight` (rows, columns / 2), or (rows, groups, 16), uint8; `scale` (rows, groups) exponents."""
    rows, columns, size = _groups(module, weight, scale)
    return Layout((rows, columns), partial(_powers, weight=weight, scale=scale, size=size))


def plan_mlx_nvfp4(module: Module) -> Layout:
    """MLX: `weight` (rows, columns / 8) uint32, `scales` (rows, groups) E4M3 as uint8, no total."""
    rows, columns, size = _groups(module, "weight", "scales")

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        scales = finite(_float8(arrays["scales"][start:stop]), "scales")
        return multiply_groups(codes.pairs(_octets(arrays["weight"][start:stop]), codes.E2M1), scales, size)

    return Layout((rows, columns), compute)


def _powers(arrays: Arrays, start: int, stop: int, *, weight: str, scale: str, size: int) -> Array:
    scales = finite(codes.powers_of_two(arrays[scale][start:stop]), scale)
    return multiply_groups(codes.pairs(_octets(arrays[weight][start:stop]), codes.E2M1), scales, size)


def _groups(module: Module, weight: str, scale: str) -> tuple[int, int, int]:
    """Return rows, columns and the size of a group, from the shapes."""
    shape = module.shape(weight)
    if len(shape) == 3 and shape[2] == 16:  # blocks of 16 bytes
        shape = (shape[0], shape[1] * shape[2])
    if len(shape) != 2 or 0 in shape:
        raise module.misfit(weight, "must be a matrix that is not empty")
    rows, columns = shape[0], shape[1] * (8 if module.dtype(weight) in ("U32", "I32") else 2)
    found = module.shape(scale)
    if len(found) != 2 or found[0] != rows or not found[1] or columns % found[1]:
        raise module.misfit(scale, f"must be {rows} rows of groups that divide {columns} columns")
    size = columns // found[1]
    if module.settings.group_sizes and size not in module.settings.group_sizes:
        raise module.contradiction("group size", _listed(module.settings.group_sizes), size)
    return rows, columns, size


def _listed(values: frozenset[int]) -> str:
    return " or ".join(map(str, sorted(values)))


def _octets(stored: Array) -> Array:
    """Return the bytes of each row."""
    return np.ascontiguousarray(stored).view(np.uint8).reshape(len(stored), -1)


def _float8(stored: Array) -> Array:
    return codes.float8(np.ascontiguousarray(stored), "F8_E4M3")
