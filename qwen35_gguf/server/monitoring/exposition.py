"""Counters and histograms in Prometheus' text format.

Source of the format: Prometheus' documentation, "Exposition formats", version 0.0.4.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Values = tuple[str, ...]  # of the labels


@dataclass
class Family:
    """A metric by the values of its labels: a counter, or a gauge.

    Attributes:
        name: ends in _total for a counter.
        help: one line.
        labels: their names.
        kind: of metric.
        numbers: by the values of the labels.

    """

    name: str
    help: str
    labels: Values
    kind: Literal["counter", "gauge"] = "counter"
    numbers: dict[Values, float] = field(default_factory=dict)

    def add(self, *values: str, amount: float = 1) -> None:
        """Count more."""
        self.numbers[values] = self.numbers.get(values, 0) + amount

    def lines(self) -> Iterator[str]:
        """Give the lines of the text."""
        yield from _heading(self.name, self.help, self.kind)
        for values, number in self.numbers.items():
            yield f"{self.name}{_labels(self.labels, values)} {_number(number)}"


@dataclass
class Histogram:
    """How often a quantity was within bounds, for each model.

    Attributes:
        name: with its unit.
        help: one line.
        bounds: ascending.
        counts: by model, for each bound and for what is above.
        sums: by model.

    """

    name: str
    help: str
    bounds: Sequence[float]
    counts: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)

    def observe(self, model: str, amount: float) -> None:
        """Count a quantity."""
        counts = self.counts.setdefault(model, [0] * (len(self.bounds) + 1))
        counts[bisect.bisect_left(self.bounds, amount)] += 1
        self.sums[model] = self.sums.get(model, 0) + amount

    def lines(self) -> Iterator[str]:
        """Give the lines of the text."""
        yield from _heading(self.name, self.help, "histogram")
        for model, counts in self.counts.items():
            total = 0
            for bound, count in zip([*self.bounds, float("inf")], counts, strict=True):
                total += count
                text = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield f"{self.name}_bucket{_labels(('model', 'le'), (model, text))} {total}"
            yield f"{self.name}_sum{_labels(('model',), (model,))} {_number(self.sums[model])}"
            yield f"{self.name}_count{_labels(('model',), (model,))} {total}"


def exposition(families: Sequence[Family | Histogram]) -> str:
    """Write metrics."""
    return "".join(f"{line}\n" for family in families for line in family.lines())


def gauge(name: str, text: str, numbers: Mapping[Values, float], labels: Values = ("model",)) -> Family:
    """Make a gauge of what is measured now."""
    return Family(name, text, labels, "gauge", dict(numbers))


def _number(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(float(number))


def _heading(name: str, text: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _labels(names: Values, values: Values) -> str:
    escaped = (value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for value in values)
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(names, escaped, strict=True)) + "}"
