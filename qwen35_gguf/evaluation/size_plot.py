"""A plot of size against KL divergence for several files: lower and further left is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen35_gguf.atomic_file import atomic_file
from qwen35_gguf.errors import MissingDependencyError

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
        raise MissingDependencyError(
            "matplotlib is needed for the plot; install it: pip install 'qwen35-gguf[plot]'"
        ) from None
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    try:
        groups = dict.fromkeys(point.group for point in points)
        for group, color in zip(groups, COLORS * len(groups), strict=False):
            line = sorted((p for p in points if p.group == group), key=lambda p: p.bits)
            bits, values = [p.bits for p in line], [p.divergence for p in line]
            spread = [[max(0.0, p.divergence - max(p.low, 1e-12)) for p in line], [p.high - p.divergence for p in line]]
            axes.errorbar(bits, values, yerr=spread, color=color, marker="o", markersize=5, capsize=2, label=group)
            for point in line:
                axes.annotate(
                    point.name, (point.bits, point.divergence), (4, 5), textcoords="offset points", fontsize=8
                )
        axes.set(xlabel="bits per weight", ylabel="mean KL divergence, nats", yscale="log", title=title)
        axes.grid(visible=True, which="both", alpha=0.25)
        if len(groups) > 1:
            axes.legend()
        stem = path.with_suffix("") if path.suffix in FORMATS else path
        made = [stem.with_name(stem.name + suffix) for suffix in FORMATS]
        for target in made:
            kind = target.suffix.removeprefix(".")
            with atomic_file(target) as file:
                figure.savefig(file, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else {})
    finally:
        pyplot.close(figure)
    return made
