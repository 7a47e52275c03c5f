"""How far a model's predictions are from a reference's: Kullback-Leibler divergence, perplexity, agreement.

Source of the statistics: llama.cpp tools/perplexity/perplexity.cpp (kl_divergence), whose figures these equal.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]

NEGLIGIBLE = -16.0  # a reference's log-probability below this counts for nothing
Z95 = 1.959964  # of the normal distribution, for 95 % on both sides


@dataclass(frozen=True)
class Figure:
    """A value with its standard error and the interval that holds the true one with 95 % confidence.

    `error` is 0 where there is none (quantiles); their interval comes from order statistics.
    """

    value: float
    low: float
    high: float
    error: float = 0.0


@dataclass(frozen=True)
class Divergence:
    """All figures of a comparison. Divergences are in nats, agreement and probabilities between 0 and 1.

    Attributes:
        tokens: that were scored.
        perplexity: of the model.
        reference_perplexity: of the reference on the same tokens.
        log_ratio: mean of ln(perplexity / reference's), whose error knows that both saw the same text.
        mean: of the divergence.
        median: of the divergence.
        p99, p999, maximum: where the divergence is large.
        same_top: how often both find the same token likeliest.
        rms_dp: root mean square of the difference in the true token's probability.

    """

    tokens: int
    perplexity: Figure
    reference_perplexity: Figure
    log_ratio: Figure
    mean: Figure
    median: Figure
    p99: Figure
    p999: Figure
    maximum: float
    same_top: Figure
    rms_dp: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class Accumulator:
    """Gathers, row by row, what the figures are made of; rows may come in any number of parts."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._parts: list[tuple[npt.NDArray[np.float64], ...]] = []

    def add(self, reference: Floats, logits: Floats, targets: Integers) -> None:
        """Compare rows.

        Args:
            reference: (rows, vocabulary), log-probabilities of the reference.
            logits: (rows, vocabulary) of the model, not normalized.
            targets: (rows,), the tokens that followed.

        """
        self._parts.append(compare(reference, logits, targets))

    def merge(self, other: Accumulator) -> None:
        """Add what another one gathered."""
        self._parts += other._parts

    @property
    def rows(self) -> int:
        """How many rows there were."""
        return sum(len(part[0]) for part in self._parts)

    @property
    def divergences(self) -> npt.NDArray[np.float64]:
        """(rows,) nats."""
        return np.concatenate([part[0] for part in self._parts]) if self._parts else np.zeros(0)

    def figures(self) -> Divergence:
        """Sum up. Raises ValueError without rows."""
        if not self._parts:
            raise ValueError("nothing was compared")
        divergence, loss, base, same = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        difference = np.exp(-loss) - np.exp(-base)
        return Divergence(
            tokens=len(divergence),
            perplexity=_exponential(_mean(loss)),
            reference_perplexity=_exponential(_mean(base)),
            log_ratio=_mean(loss - base),
            mean=_mean(divergence),
            median=_quantile(divergence, 0.5),
            p99=_quantile(divergence, 0.99),
            p999=_quantile(divergence, 0.999),
            maximum=float(divergence.max()),
            same_top=_share(same),
            rms_dp=float(np.sqrt(np.mean(difference**2))),
        )


def log_softmax(logits: Floats, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Normalize (..., vocabulary) logits to log-probabilities of `dtype` (float32 or float64), with sums in float64."""
    logits = logits.astype(dtype, copy=False)
    peak = logits.max(-1, keepdims=True)
    total = np.exp(logits - peak).sum(-1, keepdims=True, dtype=np.float64)
    found: npt.NDArray[Any] = logits - (peak + np.log(total).astype(dtype))
    return found


def compare(reference: Floats, logits: Floats, targets: Integers) -> tuple[npt.NDArray[np.float64], ...]:
    """Return for each row the divergence, the model's loss, the reference's loss, and 1 if the top tokens agree."""
    own = log_softmax(logits)
    weights = np.where(reference > NEGLIGIBLE, np.exp(reference), np.float32(0))
    divergence = np.einsum("ij,ij->i", weights, reference - own, dtype=np.float64)
    rows = np.arange(len(targets))
    return (
        divergence,
        -own[rows, targets].astype(np.float64),
        -reference[rows, targets].astype(np.float64),
        (own.argmax(-1) == reference.argmax(-1)).astype(np.float64),
    )


def _mean(values: npt.NDArray[np.float64]) -> Figure:
    mean = float(values.mean())
    error = float(values.std() / math.sqrt(len(values) - 1)) if len(values) > 1 else 0.0
    return Figure(mean, mean - Z95 * error, mean + Z95 * error, error)


def _exponential(figure: Figure) -> Figure:
    value = math.exp(figure.value)
    return Figure(value, math.exp(figure.low), math.exp(figure.high), value * figure.error)


def _quantile(values: npt.NDArray[np.float64], share: float) -> Figure:
    """Interpolate; the interval is between the order statistics that a binomial count allows."""
    ordered, count = np.sort(values), len(values)
    spread = Z95 * math.sqrt(count * share * (1 - share))
    low = max(0, math.floor(count * share - spread) - 1)
    high = min(count - 1, math.ceil(count * share + spread))
    return Figure(float(np.quantile(ordered, share)), float(ordered[low]), float(ordered[high]))


def _share(flags: npt.NDArray[np.float64]) -> Figure:
    """Return the share of ones with Wilson's interval, which stays between 0 and 1."""
    count, share = len(flags), float(flags.mean())
    middle = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    half = Z95 / (1 + Z95**2 / count) * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    error = math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else 0.0
    return Figure(share, max(0.0, middle - half), min(1.0, middle + half), error)
