"""Integers packed along the rows of a matrix, with a scale, and a zero point or a bias, for each group of columns.

Layouts: compressed-tensors (compressors/pack_quantized), mlx (ops.cpp, affine_dequantize), ModelOpt (torch/export/
quant_utils.py, pack_int4_in_uint8).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen35_gguf.convert.dequantize import codes
from qwen35_gguf.convert.dequantize.quantized_tensor import (
    Arrays,
    Layout,
    Module,
    ScaleError,
    add_groups,
    finite,
    multiply_groups,
    subtract_groups,
)

Array = np.ndarray[Any, np.dtype[Any]]

MLX_BITS = (2, 3, 4, 5, 6, 8)


def plan_compressed(module: Module) -> Layout:
    """compressed-tensors: `weight_packed` (rows, words) int32, `weight_shape`, `weight_scale` (rows, groups).

    `weight_zero_point` is packed down the columns, or int8 (rows, groups); `weight_g_idx` names each column's group.
    """
    packed = module.shape("weight_packed")
    stated = [int(n) for n in module.array("weight_shape").reshape(-1)[-2:]]
    if len(packed) != 2 or len(stated) != 2 or stated[0] != packed[0] or min(packed[1], *stated) < 1:
        raise module.misfit("weight_packed", f"must be a matrix of the rows of weight_shape, {stated}")
    rows, columns = stated
    bits, unpack = _width(module, packed[1], columns)
    scale = module.shape("weight_scale")
    groups = scale[-1] if len(scale) == 2 else 1
    size = _group_size(module, columns, groups)
    module.check("weight_scale", (rows, groups), *([(1,), ()] if groups == 1 else []))
    zeros = _zero_points(module, rows, groups, bits)
    order = _column_groups(module, columns, groups)

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        weights: Array = unpack(arrays["weight_packed"][start:stop], bits, columns, 1 << (bits - 1))
        if not weights.flags.c_contiguous:
            weights = np.ascontiguousarray(weights)
        scales = finite(arrays["weight_scale"], "weight_scale").reshape(-1, groups)
        scales = scales[start:stop] if len(scales) == rows else scales
        zero = zeros[start:stop] if zeros is not None else None
        if order is not None:
            if zero is not None:
                weights -= zero[:, order]
            weights *= scales[:, order]
            return weights
        if zero is not None:
            subtract_groups(weights, zero, size)
        return multiply_groups(weights, scales, size)

    return Layout((rows, columns), compute)


def _width(module: Module, words: int, columns: int) -> tuple[int, Any]:
    """Find the width of the integers from the words of a row; older files leave gaps where it does not divide 32."""
    known = sorted(module.settings.bits) or [4, 8, 2, 3, 5, 6, 7]
    for bits in known:
        if bits in range(1, 9) and codes.word_count(columns, bits) == words:
            return bits, codes.integers
    for bits in known:
        if bits in range(1, 9) and -(-columns // (codes.WORD // bits)) == words:
            return bits, codes.integers_with_gaps
    raise module.contradiction(
        "bits", " or ".join(map(str, known)), f"{codes.WORD * words / columns:g} for each of {columns} columns"
    )


def _group_size(module: Module, columns: int, groups: int) -> int:
    given = {size for size in module.settings.group_sizes if size > 0}
    for size in given:
        if -(-columns // size) == groups:
            return size
    if groups < 1 or columns % groups:
        raise module.misfit("weight_scale", f"must have groups that divide {columns} columns")
    if groups > 1 and given:
        raise module.contradiction("group size", " or ".join(map(str, sorted(given))), columns // groups)
    return columns // groups


def _zero_points(module: Module, rows: int, groups: int, bits: int) -> Array | None:
    """Return the zero points (rows, groups) F32, as signed numbers; None without."""
    role = "weight_zero_point"
    if role not in module.tensors:
        return None
    if module.dtype(role) == "I8":
        module.check(role, (rows, groups), *([(1,), ()] if groups == 1 else []))
        return np.broadcast_to(module.array(role).reshape(-1, groups).astype(np.float32), (rows, groups))
    dense, gaps = codes.word_count(rows, bits), -(-rows // (codes.WORD // bits))
    module.check(role, (dense, groups), (gaps, groups))
    unpack = codes.integers if module.shape(role)[0] == dense else codes.integers_with_gaps
    found: Array = unpack(np.ascontiguousarray(module.array(role).T), bits, rows, 1 << (bits - 1)).T
    return found


def _column_groups(module: Module, columns: int, groups: int) -> Array | None:
    """Return the group of each column, None if they are in order."""
    role = "weight_g_idx"
    if role not in module.tensors:
        return None
    module.check(role, (columns,))
    order = module.array(role)
    if (order < 0).all():  # as it is initialized: not used
        return None
    if order.min() < 0 or order.max() >= groups:
        raise module.misfit(role, f"must hold numbers of {groups} groups")
    return order.astype(np.intp)


def plan_mlx(module: Module) -> Layout:
    """MLX: `weight` (rows, words) uint32, `scales` and `biases` (rows, groups)."""
    packed, scales = module.shape("weight"), module.shape("scales")
    if len(packed) != 2 or 0 in packed:
        raise module.misfit("weight", "must be a matrix that is not empty")
    if len(scales) != 2 or scales[0] != packed[0] or not scales[1]:
        raise module.misfit("scales", f"must have {packed[0]} rows")
    module.check("biases", scales)
    settings = module.settings
    size, bits = min(settings.group_sizes, default=64), min(settings.bits, default=4)
    columns = scales[1] * size
    if bits not in MLX_BITS or codes.word_count(columns, bits) != packed[1] or columns * bits % codes.WORD:
        found = f"{codes.WORD * packed[1] / scales[1]:g} bits a group"
        raise module.contradiction("bits and group size", f"{bits} bits in groups of {size}", found)

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        weights = codes.integers(arrays["weight"][start:stop], bits, columns)
        multiply_groups(weights, finite(arrays["scales"][start:stop], "scales"), size)
        return add_groups(weights, finite(arrays["biases"][start:stop], "biases"), size)

    return Layout((packed[0], columns), compute)


def plan_modelopt_int4(module: Module) -> Layout:
    """ModelOpt INT4: `weight` (rows / 2, columns) uint8, two rows a byte; `weight_scale` (rows, groups)."""
    packed, scales = module.shape("weight"), module.shape("weight_scale")
    if len(packed) != 2 or 0 in packed:
        raise module.misfit("weight", "must be a matrix that is not empty")
    rows, columns = 2 * packed[0], packed[1]
    if len(scales) != 2 or scales[0] != rows or not scales[1] or columns % scales[1]:
        raise module.misfit("weight_scale", f"must be {rows} rows of groups that divide {columns} columns")
    size = columns // scales[1]
    signed = np.array([*range(8), *range(-8, 0)], np.float32)

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        octets = arrays["weight"][start // 2 : stop // 2]
        weights = np.stack([signed[octets & 15], signed[octets >> 4]], 1).reshape(stop - start, columns)
        return multiply_groups(weights, finite(arrays["weight_scale"][start:stop], "weight_scale"), size)

    return Layout((rows, columns), compute, step=2)


def in_range(values: Array, limit: int, role: str) -> Array:
    """Return numbers of groups. Raises ScaleError if one is not below `limit`."""
    if values.size and (values.min() < 0 or values.max() >= limit):
        raise ScaleError(role)
    return values.astype(np.intp)
