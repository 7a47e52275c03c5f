"""Choices by noise are samples of the softmax, independent of each other, and the same for similar distributions."""

from __future__ import annotations

import numpy as np
import pytest

from qwen35_gguf.runtime.llama.sampling.gumbel import MANY, choose_by_noise, gumbel_noise

pytestmark = pytest.mark.unit

LIMIT = 5.0  # standard deviations


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    """How many standard deviations the statistic is above its mean (Wilson, Hilferty 1931)."""
    expected = p * counts.sum()
    freedom = len(p) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / np.sqrt(2 / (9 * freedom)))


@pytest.mark.parametrize("how", ["places", "seeds"])
def test_choices_have_the_distribution_of_the_softmax(how: str) -> None:
    rng = np.random.default_rng(0)
    ids = rng.choice(248_320, 40, replace=False)
    logits = rng.normal(0, 1.5, 40)
    p = np.exp(logits) / np.exp(logits).sum()
    counts = np.zeros(40)
    for number in range(20_000):
        seed, place = (3, number) if how == "places" else (number, 3)
        counts[(logits + gumbel_noise(seed, place, ids)).argmax()] += 1
    assert abs(chi_square(counts, p)) < LIMIT


def test_neighbouring_places_and_seeds_are_independent() -> None:
    ids = np.arange(4)
    counts = np.zeros((3, 4, 4))
    for number in range(8_000):
        here = gumbel_noise(number, 0, ids).argmax()
        for kind, (seed, place) in enumerate(((number, 1), (number + 1, 0), (number + 1, 1))):
            counts[kind, here, gumbel_noise(seed, place, ids).argmax()] += 1
    for table in counts:
        assert abs(chi_square(table.ravel(), np.full(16, 1 / 16))) < LIMIT


def test_noise_of_many_tokens_is_that_of_a_gumbel_distribution() -> None:
    noise = gumbel_noise(1, 2, np.arange(248_320))
    assert noise.mean() == pytest.approx(0.5772, abs=0.01)
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.02)
    assert len(np.unique(noise)) == 248_320
    p = np.histogram(noise, [-np.inf, -1, 0, 1, 2, 4, np.inf])[0] / len(noise)
    edges = np.exp(-np.exp(-np.array([-1, 0, 1, 2, 4.0])))
    np.testing.assert_allclose(p, np.diff([0, *edges, 1]), atol=0.005)


def test_similar_distributions_mostly_choose_the_same() -> None:
    rng = np.random.default_rng(1)
    ids, logits = np.arange(20), rng.normal(size=20)
    other = logits + rng.normal(0, 0.2, 20)
    p, q = (np.exp(row) / np.exp(row).sum() for row in (logits, other))
    distance = np.abs(p - q).sum() / 2
    same = 0
    for place in range(10_000):
        noise = gumbel_noise(7, place, ids)
        same += (logits + noise).argmax() == (other + noise).argmax()
    assert (1 - distance) / (1 + distance) < same / 10_000 <= 1 - distance + 0.01
    assert same / 10_000 > 1.5 * p[q.argmax()]  # what drafting the best token would give


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0, 20.0])
def test_of_many_candidates_the_one_with_the_most_is_found(spread: float) -> None:
    rng = np.random.default_rng(2)
    ids = np.arange(10 * MANY)
    for place in range(50):
        logits = rng.normal(0, spread, len(ids)).astype(np.float32)
        assert choose_by_noise(logits, 1, place, ids) == (logits + gumbel_noise(1, place, ids)).argmax()
