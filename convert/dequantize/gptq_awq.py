"""GPTQ and AWQ: 2 to 8-bit integers packed into int32 words of a transposed matrix, with packed zero points.

Layouts: GPTQModel (nn_modules/qlinear/torch.py, utils/model.py for the two conventions of zero points), AutoAWQ
(utils/packing_utils.py, modules/linear/gemm.py and gemv.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen35_gguf.convert.dequantize import codes
from qwen35_gguf.convert.dequantize.packed_integers import in_range
from qwen35_gguf.convert.dequantize.quantized_tensor import (
    Arrays,
    Layout,
    Module,
    finite,
    multiply_groups,
    subtract_groups,
)

Array = np.ndarray[Any, np.dtype[Any]]

GPTQ_BITS = (2, 3, 4, 8)
AWQ_BITS = 4
AWQ_EACH = 8  # integers a word
# Output i of a word is in its half byte AWQ_ORDER[i].
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


def plan_gptq(module: Module) -> Layout:
    """GPTQ: `qweight` (columns * bits / 32, rows), `qzeros` (groups, rows * bits / 32), `scales` (groups, rows).

    `g_idx` (columns,) names each column's group, which is what `desc_act` changes.
    """
    packed, scales, zeros = (module.shape(role) for role in ("qweight", "scales", "qzeros"))
    if len(packed) != 2 or 0 in packed:
        raise module.misfit("qweight", "must be a matrix that is not empty")
    rows = packed[1]
    if len(scales) != 2 or scales[1] != rows or not scales[0]:
        raise module.misfit("scales", f"must be a row for each group, of {rows} columns")
    groups = scales[0]
    bits = next((n for n in GPTQ_BITS if zeros == (groups, codes.word_count(rows, n))), 0)
    if not bits:
        raise module.misfit("qzeros", f"must be {groups} rows of {rows} integers of 2, 3, 4 or 8 bits")
    if module.settings.bits and bits not in module.settings.bits:
        raise module.contradiction("bits", " or ".join(map(str, sorted(module.settings.bits))), bits)
    columns = packed[0] * codes.WORD // bits
    if "g_idx" in module.tensors:
        columns = module.shape("g_idx")[0] if module.shape("g_idx") else 0
        if codes.word_count(columns, bits) != packed[0]:
            raise module.misfit("g_idx", f"must name the group of each of {packed[0] * codes.WORD // bits} columns")
    size, order = _gptq_groups(module, columns, groups)
    most = (1 << bits) - 1
    offset = module.settings.zero_offset

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        weights = codes.integers(np.ascontiguousarray(arrays["qweight"][:, start:stop].T), bits, columns)
        stored = codes.integers(arrays["qzeros"], bits, rows)[:, start:stop]
        zero = ((stored.astype(np.int32) + offset) & most).astype(np.float32).T
        factor = finite(arrays["scales"][:, start:stop], "scales").T
        if order is None:
            subtract_groups(weights, zero, size)
            return multiply_groups(weights, factor, size)
        weights -= zero[:, order]
        weights *= factor[:, order]
        return weights

    return Layout((rows, columns), compute)


def _gptq_groups(module: Module, columns: int, groups: int) -> tuple[int, Array | None]:
    """Return the size of groups, and the group of each column unless they are in order."""
    given = next((size for size in module.settings.group_sizes if size > 0), 0)
    size = given if given and -(-columns // given) == groups else -(-columns // groups)
    if "g_idx" not in module.tensors:
        if given and size != given and groups > 1:
            raise module.contradiction("group size", given, size)
        return size, None
    order = in_range(module.array("g_idx"), groups, "g_idx") if _known(module, groups) else None
    if order is None:
        raise module.misfit("g_idx", f"must hold numbers of {groups} groups")
    return (size, None) if np.array_equal(order, np.arange(columns) // size) else (size, order)


def _known(module: Module, groups: int) -> bool:
    order = module.array("g_idx")
    return bool(order.size and order.min() >= 0 and order.max() < groups)


def plan_awq(module: Module) -> Layout:
    """AWQ: `qweight` (columns, rows / 8), `qzeros` (groups, rows / 8), `scales` (groups, rows)."""
    packed, scales = module.shape("qweight"), module.shape("scales")
    if len(packed) != 2 or 0 in packed:
        raise module.misfit("qweight", "must be a matrix that is not empty")
    if module.settings.bits and AWQ_BITS not in module.settings.bits:
        raise module.contradiction("bits", " or ".join(map(str, sorted(module.settings.bits))), AWQ_BITS)
    if module.settings.row_packed:
        return _plan_gemv(module)
    columns, rows = packed[0], packed[1] * AWQ_EACH
    if len(scales) != 2 or scales[1] != rows or not scales[0] or columns % scales[0]:
        raise module.misfit("scales", f"must be groups that divide {columns} columns, of {rows} rows")
    groups = scales[0]
    module.check("qzeros", (groups, packed[1]))
    size = _awq_size(module, columns, groups)

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        words = slice(start // AWQ_EACH, -(-stop // AWQ_EACH))
        weights = _interleaved(arrays["qweight"][:, words])
        zero = _interleaved(arrays["qzeros"][:, words])
        subtract_groups(weights, zero, size)
        return multiply_groups(weights, finite(arrays["scales"][:, start:stop], "scales").T, size)

    return Layout((rows, columns), compute, step=AWQ_EACH)


def _plan_gemv(module: Module) -> Layout:
    """AWQ GEMV: `qweight` (rows, columns / 8) in order, `qzeros` and `scales` (rows, groups) padded at the end."""
    rows, columns = module.shape("qweight")[0], module.shape("qweight")[1] * AWQ_EACH
    size = next((size for size in module.settings.group_sizes if size > 0), columns)
    groups = -(-columns // size)
    scales, zeros = module.shape("scales"), module.shape("qzeros")
    if len(scales) != 2 or scales[0] != rows or scales[1] < groups:
        raise module.misfit("scales", f"must be {rows} rows of at least {groups} groups")
    if len(zeros) != 2 or zeros[0] != rows or zeros[1] * AWQ_EACH < groups:
        raise module.misfit("qzeros", f"must be {rows} rows of at least {groups} zero points")

    def compute(arrays: Arrays, start: int, stop: int) -> Array:
        weights = codes.integers(arrays["qweight"][start:stop], AWQ_BITS, columns)
        subtract_groups(weights, codes.integers(arrays["qzeros"][start:stop], AWQ_BITS, groups), size)
        return multiply_groups(weights, finite(arrays["scales"][start:stop, :groups], "scales"), size)

    return Layout((rows, columns), compute)


def _awq_size(module: Module, columns: int, groups: int) -> int:
    size = columns // groups
    given = {size for size in module.settings.group_sizes if size > 0}
    if groups > 1 and given and size not in given:
        raise module.contradiction("group size", " or ".join(map(str, sorted(given))), size)
    return size


def _interleaved(words: Array) -> Array:
    """Unpack AWQ's words (columns, rows / 8) -> (rows, columns) F32."""
    across = np.ascontiguousarray(words.T).view(np.uint32)
    result = np.empty((len(across), AWQ_EACH, across.shape[1]), np.float32)
    for row, half in enumerate(AWQ_ORDER):
        result[:, row] = across >> np.uint32(4 * half) & np.uint32(15)
    return result.reshape(-1, across.shape[1])
