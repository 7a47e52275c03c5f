"""A plot of size against KL divergence for several files: lower and further left is better."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_gguf.atomic_file import atomic_file
from qwen35_gguf.errors import MissingDependencyError

MISSING = "matplotlib is needed for the plot; install it: pip install matplotlib"
LABEL_OFFSET, LABEL_SIZE, MARKER, POINTS_PER_INCH = (4, 5), 8, 5, 72  # points
# Where a label may be: which side of it is at its point, and how far away, in points.
PLACES = (
    ("left", "baseline", (4, 5)), ("right", "top", (-4, -5)), ("left", "top", (4, -5)), ("right", "baseline", (-4, 5)),
    ("center", "baseline", (0, 9)), ("center", "top", (0, -9)),
)  # fmt: skip
SAME_SIZE = 0.02  # bits
COLORS = ("#0b6e4f", "#d1495b", "#30638e", "#edae49", "#5f4b8b")
FORMATS = (".png", ".svg")


@dataclass(frozen=True)
class Point:
    """A file: its name, bits per weight, and mean divergence with its interval, in nats."""

    name: str
    bits: float
    divergence: float
    low: float
    high: float
    group: str = ""


def plotting_installed() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_plot(path: Path) -> list[Path]:
    """Return the files that `draw` writes, before the work that it shows.

    Raises:
        MissingDependencyError: matplotlib is not installed.

    """
    if not plotting_installed():
        raise MissingDependencyError(MISSING)
    stem = path.with_suffix("") if path.suffix in FORMATS else path
    return [stem.with_name(stem.name + suffix) for suffix in FORMATS]


def draw(points: Sequence[Point], path: Path, title: str = "") -> list[Path]:
    """Draw points as PATH.png and PATH.svg, those of a group joined by a line.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OutputError: a file cannot be written.

    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        mpl.rcParams["svg.hashsalt"] = "qwen35"  # equal plots give equal files
        mpl.rcParams["svg.fonttype"] = "none"
        from matplotlib import pyplot
    except ImportError:
        raise MissingDependencyError(MISSING) from None
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    try:
        groups = dict.fromkeys(point.group for point in points)
        for group, color in zip(groups, COLORS * len(groups), strict=False):
            line = sorted((p for p in points if p.group == group), key=lambda p: p.bits)
            bits, values = [p.bits for p in line], [p.divergence for p in line]
            spread = [[max(0.0, p.divergence - max(p.low, 1e-12)) for p in line], [p.high - p.divergence for p in line]]
            axes.errorbar(bits, values, yerr=spread, color=color, marker="o", markersize=MARKER, capsize=2, label=group)
        axes.set(xlabel="bits per weight", ylabel="mean KL divergence, nats", title=title)
        if any(point.divergence > 0 for point in points):  # not where a file is compared with itself
            axes.set_yscale("log")
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.margins(0.08, 0.12)
        if len(groups) > 1:
            axes.legend()
        _label(figure, axes, points)
        made = check_plot(path)
        for target in made:
            kind = target.suffix.removeprefix(".")
            with atomic_file(target) as file:
                figure.savefig(file, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else {})
    finally:
        pyplot.close(figure)
    return made


def _label(figure: Any, axes: Any, points: Sequence[Point]) -> None:
    """Write the names beside their points: over no point and no other name where there is room, never over the edge.

    Files of one name and size, which differ by how they were made, are one above the other: the highest has the name.
    """
    figure.canvas.draw()  # so that extents are known
    frame = axes.get_window_extent()
    size = MARKER * figure.dpi / POINTS_PER_INCH / 2
    taken = [_around(axes.transData.transform((p.bits, p.divergence)), size) for p in points if p.divergence > 0]
    named: list[Point] = []
    for point in sorted(points, key=lambda p: -p.divergence):
        if any(one.name == point.name and abs(one.bits - point.bits) < SAME_SIZE for one in named):
            continue
        named.append(point)
        label = axes.annotate(
            point.name, (point.bits, point.divergence), LABEL_OFFSET, textcoords="offset points", fontsize=LABEL_SIZE
        )
        if _place(label, frame, taken):
            taken.append(label.get_window_extent())
            continue
        _center(label, axes, frame, point)
        taken.append(label.get_window_extent())


def _place(label: Any, frame: Any, taken: Sequence[Any]) -> bool:
    """Move a label to the side of its point where it covers least; tell whether it is inside the plot there."""
    best = None
    for horizontal, vertical, offset in PLACES:
        label.set(horizontalalignment=horizontal, verticalalignment=vertical)
        label.xyann = offset
        extent = label.get_window_extent()
        if extent.x0 < frame.x0 or extent.x1 > frame.x1 or extent.y0 < frame.y0 or extent.y1 > frame.y1:
            continue
        covered = sum(extent.overlaps(one) for one in taken)
        if best is None or covered < best[0]:
            best = covered, horizontal, vertical, offset
        if not covered:
            return True
    if best is None:
        return False
    label.set(horizontalalignment=best[1], verticalalignment=best[2])
    label.xyann = best[3]
    return True


def _center(label: Any, axes: Any, frame: Any, point: Point) -> None:
    """Center a label that is longer than half of the plot, in smaller letters if it is longer than the plot."""
    middle = axes.transData.inverted().transform((frame.x0 + frame.width / 2, frame.y0))[0]
    label.set(horizontalalignment="center", verticalalignment="baseline")
    label.xy, label.xyann = (middle, point.divergence), (0, LABEL_OFFSET[1])
    if (wide := label.get_window_extent().width) > frame.width:
        label.set_fontsize(LABEL_SIZE * frame.width / wide * 0.98)
    if label.get_window_extent().y1 > frame.y1:
        label.set_verticalalignment("top")
        label.xyann = (label.xyann[0], -LABEL_OFFSET[1])


def _around(center: Any, size: float) -> Any:
    """Return a square box around a point, both in pixels."""
    from matplotlib.transforms import Bbox

    (x, y) = center
    return Bbox.from_extents(x - size, y - size, x + size, y + size)
