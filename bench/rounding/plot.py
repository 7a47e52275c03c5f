"""Draw the tables of docs/quality.md that bench/rounding/rounding.py printed: size against KL divergence.

.venv/bin/python bench/rounding/plot.py [--out bench/results]

Writes rounding.svg and rounding.png of the first table, the tiny model's, and rounding-wide of the second. Bars are the
standard error of the ratio to importance alone, over chunks of the same text.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from qwen35_gguf.evaluation.size_plot import Point, draw

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quality.md"
FIRST = "| Preset | bits per weight | importance alone |"
RATIO = re.compile(r"(\d\.\d+) ± (\d\.\d+)")
PLOTS = {"rounding": "tiny model", "rounding-wide": "wide model"}


def main() -> None:
    """Draw both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE.parents[1] / "bench" / "results")
    options = parser.parse_args()
    for (name, title), table in zip(PLOTS.items(), tables(PAGE.read_text(encoding="utf-8")), strict=True):
        draw(list(points(table)), options.out / name, f"Rounding by second moments: {title}")


def tables(page: str) -> Iterator[list[str]]:
    """Yield the lines of each table of sizes and divergences."""
    lines = page.splitlines()
    for start, line in enumerate(lines):
        if line.startswith(FIRST):
            end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
            yield lines[start:end]


def points(table: list[str]) -> Iterator[Point]:
    """Yield a point for each file of a table, with the error of the ratio that follows it, if any."""
    titles, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in table)
    for row in rows:
        for title, cell, following in zip(titles[2:], row[2:], [*row[3:], ""], strict=True):
            if re.fullmatch(r"\d\.\d{5}", cell):
                value, ratio = float(cell), RATIO.fullmatch(following)
                error = value * float(ratio[2]) / float(ratio[1]) if ratio else 0.0
                yield Point(row[0], float(row[1]), value, value - error, value + error, title)


if __name__ == "__main__":
    main()
