"""The grids of the IQ2 and IQ3 types, packed: the twin of ggml_ops/quantized_matmul/grids/tables.h, and its source.

A grid lists vectors of eight (IQ2) or four (IQ3) magnitudes out of three or eight. `pack` stores a vector in one 16-bit
word, as the kernels unpack it: even elements in the low byte, odd ones in the high byte, so that one shift by the same
number for all words brings two neighbours to the low bits of two bytes.

    python -m qwen35_gguf.ggml_ops.reference.grids > ggml_ops/quantized_matmul/grids/tables.h

Source of the grids: ggml-common.h, as the gguf package has them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

TYPES = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
PER_LINE = 14

HEADER = """\
// The grids of the IQ2 and IQ3 types. Made by ggml_ops/reference/grids.py: run it instead of editing this file.
//
// An entry lists codes of `values`, two bits for each of eight weights, or four for each of four: those of the even
// weights in the low byte, those of the odd ones in the high byte.
#pragma once

#include <cstdint>

namespace quantized_matmul::grids {

template <int Size, int Values>
struct Grid {
    static constexpr int size = Size;
    static constexpr int count = Values;
    static constexpr int weights = Values == 3 ? 8 : 4;  // of an entry
    static constexpr int code_bits = 16 / weights;
    std::uint8_t values[Values];
    alignas(64) std::uint16_t entries[Size];

    // What makes all weights unsigned.
    constexpr int offset() const { return values[Values - 1]; }
    constexpr int magnitude(int entry, int weight) const {
        return values[entries[entry] >> (8 * (weight % 2) + code_bits * (weight / 2)) & ((1 << code_bits) - 1)];
    }
};
"""


def codes(name: str) -> tuple[Array, Array]:
    """Read a grid of gguf: (entries, 8 or 4) uint8 codes, and the magnitudes that they stand for."""
    from gguf import quants  # here: the kernels do not need it

    kind = getattr(quants, name)
    kind.init_grid()
    values = np.array(kind.grid_map, np.uint8)
    grid = kind.grid.reshape(kind.grid_shape).astype(np.uint8)
    return np.searchsorted(values, grid).astype(np.uint8), values


def pack(grid: Array) -> Array:
    """Pack (entries, n) codes: element j is at bit 8 (j % 2) + 16 / n (j // 2) of a uint16."""
    n = grid.shape[1]
    element = np.arange(n)
    shifts = 8 * (element % 2) + 16 // n * (element // 2)
    result: Array = (grid.astype(np.uint16) << shifts.astype(np.uint16)).sum(axis=1).astype(np.uint16)
    return result


def header() -> str:
    """Write grids.h."""
    parts = [HEADER]
    for name in TYPES:
        grid, values = codes(name)
        words = [f"0x{word:04X}," for word in pack(grid)]
        lines = [" ".join(words[i : i + PER_LINE]) for i in range(0, len(words), PER_LINE)]
        body = "\n".join(f"        {line}" for line in lines).rstrip(",")
        listed = ", ".join(map(str, values))
        parts.append(
            f"inline constexpr Grid<{len(grid)}, {len(values)}> {name.lower()} = {{\n"
            f"    {{{listed}}},\n    {{\n{body},\n    }},\n}};\n"
        )
    return "// clang-format off\n".join(["\n".join(parts[:1]) + "\n", "\n".join(parts[1:])]) + (
        "// clang-format on\n\n}  // namespace quantized_matmul::grids\n"
    )


if __name__ == "__main__":
    sys.stdout.write(header())
