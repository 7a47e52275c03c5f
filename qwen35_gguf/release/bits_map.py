"""A map of bits per weight: a row for each role, a column for each layer; in the terminal and as SVG."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.style import Style
from rich.text import Text

from qwen35_gguf.gguf_file.header import TensorInfo
from qwen35_gguf.units import format_file_size

# Upper limits in bits per weight, with colors.
SCALE = ((2.7, "#7b1e3b"), (3.6, "#c8553d"), (4.4, "#e9a23b"), (5.2, "#d9cf3f"), (6.2, "#7fb069"), (7.5, "#3a8d76"),
         (9.0, "#2f6690"), (17.0, "#3c4f76"), (math.inf, "#8d99ae"))  # fmt: skip
LEGEND = ("to 2.7", "3.6", "4.4", "5.2", "6.2", "7.5", "9", "17", "32 bits")
CELL, GAP, LEFT, TOP = 16, 2, 150, 50
EVERY = 4  # layers that have their number
FIGURES = 27  # columns of a role's figures


@dataclass(frozen=True)
class Row:
    """One role, such as ffn_down: its tensor in each layer (None for a tensor outside of the blocks)."""

    role: str
    tensors: dict[int | None, TensorInfo]

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(math.prod(t.shape) for t in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(t.nbytes for t in self.tensors.values())


def bits(tensor: TensorInfo) -> float:
    """Bits per weight."""
    return 8 * tensor.nbytes / max(1, math.prod(tensor.shape))


def rows(tensors: Sequence[TensorInfo]) -> list[Row]:
    """Group matrices by role, the largest first; vectors, which are small and stay F32, are left out."""
    found: dict[str, dict[int | None, TensorInfo]] = {}
    for tensor in tensors:
        if len(tensor.shape) < 2:
            continue
        block = re.match(r"(?:v\.)?blk\.(\d+)\.(.*)", tensor.name)
        role = (block[2] if block else tensor.name).removesuffix(".weight")
        found.setdefault(role, {})[int(block[1]) if block else None] = tensor
    return sorted((Row(role, group) for role, group in found.items()), key=lambda row: -row.nbytes)


def color(value: float) -> str:
    """Return the color of a number of bits per weight."""
    return next(name for limit, name in SCALE if value <= limit)


def show(console: Console, table: Sequence[Row]) -> None:
    """Print the map, with each role's bits and megabytes."""
    layers = 1 + max((layer for row in table for layer in row.tensors if layer is not None), default=0)
    wide = max((len(row.role) for row in table), default=4)
    numbers = "".join(f"{number:<{EVERY}}" for number in range(0, layers, EVERY))[:layers]
    console.print(Text(f"{'layer':<{wide}}{'':{FIGURES}}{numbers}".rstrip(), Style(dim=True)), soft_wrap=True)
    for row in table:
        figures = f" {8 * row.nbytes / row.weights:6.2f} bits {format_file_size(row.nbytes):>12}  "
        line = Text(f"{row.role:<{wide}}{figures:<{FIGURES}}")
        if None in row.tensors:
            line.append("█" * layers, Style(color=color(bits(row.tensors[None]))))
        else:
            for layer in range(layers):
                tensor = row.tensors.get(layer)
                line.append("█" if tensor else "·", Style(color=color(bits(tensor))) if tensor else Style(dim=True))
        console.print(line, soft_wrap=True)
    legend = Text("bits per weight: ")
    for (_, name), label in zip(SCALE, LEGEND, strict=True):
        legend.append("█", Style(color=name))
        legend.append(f" {label}  ")
    console.print(legend, soft_wrap=True)


def svg(table: Sequence[Row], title: str) -> str:
    """Draw the map as SVG; every cell has a tooltip with its tensor."""
    layers = 1 + max((layer for row in table for layer in row.tensors if layer is not None), default=0)
    step = CELL + GAP
    width, height = LEFT + layers * step + 130, TOP + (len(table) + 2) * step + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="20" font-size="14">{html.escape(title)}</text>',
    ]
    for marked in range(0, layers, EVERY):
        x = LEFT + marked * step + CELL // 2
        parts.append(f'<text x="{x}" y="{TOP - 6}" text-anchor="middle" font-size="9" fill="#555">{marked}</text>')
    parts.append(f'<text x="{LEFT - 8}" y="{TOP - 6}" text-anchor="end" font-size="9" fill="#555">layer</text>')
    for number, row in enumerate(table):
        y = TOP + number * step
        parts.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{html.escape(row.role)}</text>')
        for layer, tensor in row.tensors.items():
            x, span = LEFT + (layer or 0) * step, CELL if layer is not None else layers * step - GAP
            tooltip = f"{tensor.name}: {tensor.type.name}, {bits(tensor):.2f} bits, {format_file_size(tensor.nbytes)}"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{span}" height="{CELL}" rx="2" fill="{color(bits(tensor))}">'
                f"<title>{html.escape(tooltip)}</title></rect>"
            )
        label = f"{8 * row.nbytes / row.weights:.2f} bits, {format_file_size(row.nbytes)}"
        parts.append(f'<text x="{LEFT + layers * step + 6}" y="{y + 12}" fill="#555">{label}</text>')
    y = TOP + len(table) * step + 12
    for number, ((_, name), label) in enumerate(zip(SCALE, LEGEND, strict=True)):
        x = 8 + number * 58
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{name}"/>')
        parts.append(f'<text x="{x + 15}" y="{y + 10}" font-size="9">{label}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
