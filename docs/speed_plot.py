"""Draw docs/speed.svg and docs/depth.svg: stock llama.cpp at two settings and the patched one, from performance.md.

`make docs` runs it through docs/generate.py. A table is found by how its header begins; its columns are the row's name,
stock by default, stock at its other or best setting, patched. Cells that are not numbers are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

SPEED = ("| 0.8B Q4_K_M, two threads |", "0.8B Q4_K_M, two AVX-512 cores, tokens/s", "stock, no repacking")
DEPTH = ("| 0.8B Q4_K_M behind N tokens |", "0.8B Q4_K_M behind N tokens, two AVX-512 cores, tokens/s", "stock, best")
COLOURS = ("#9aa5b1", "#5b7083", "#0b6e4f")
WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 720, 190, 90, 18, 16, 62


def svg(page: str, header: str, title: str, other: str) -> str:
    """Return the plot of a page's table: bars relative to stock by default, labelled with tokens/s."""
    rows = list(read(page, header))
    scale = (WIDTH - LEFT - RIGHT) / max(value / values[0] for _, values in rows for value in values if value)
    body, y = [], TOP
    for name, values in rows:
        shown = [(side, value) for side, value in enumerate(values) if value]
        middle = y + len(shown) * BAR / 2 + 5
        body.append(f'<text x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>')
        for side, value in shown:
            width = scale * value / values[0]
            label = f"{value:,.1f} ({value / values[0]:.2f}x)"
            body.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 3}" fill="{COLOURS[side]}"/>'
                f'<text x="{LEFT + width + 6:.1f}" y="{y + BAR - 6}" class="value">{label}</text>'
            )
            y += BAR
        y += GAP
    legend = "".join(
        f'<rect x="{LEFT + 160 * side}" y="32" width="12" height="12" fill="{COLOURS[side]}"/>'
        f'<text x="{LEFT + 160 * side + 18}" y="42">{name}</text>'
        for side, name in enumerate(("stock, default", other, "patched"))
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">',
            "<style>text{font:13px sans-serif}.value{font-size:12px;fill:#444}.title{font-weight:bold}</style>",
            f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>',
            f'<text x="{LEFT}" y="20" class="title">{title}</text>',
            legend,
            *body,
            "</svg>\n",
        ]
    )


def read(page: str, header: str) -> Iterator[tuple[str, list[float]]]:
    """Yield the name of each row in tokens/s, and its values; 0 for a cell that is not a number."""
    table = page[page.index(header) :].split("\n\n")[0].splitlines()
    for line in table[2:]:
        name, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
        if name.endswith(", tokens/s"):
            values = [float(re.sub(",", "", cell)) if re.fullmatch(r"[\d.,]+", cell) else 0.0 for cell in cells[:3]]
            yield name.removesuffix(", tokens/s"), values
