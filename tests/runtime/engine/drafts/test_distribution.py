"""Sampled tokens have exactly the distribution of the model, with drafts and without: chi-square tests on the demo."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from inputs.one_request import OneRequest
from oracles import llama
from oracles.paths import TINY
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.sampling import THINKING, Sampler, Sampling
from qwen35_gguf.runtime.llama.model import Model, ModelSpec

SAMPLES = 100_000
ANSWERS, LENGTH = int(os.environ.get("QWEN35_ANSWERS", "1500")), 8  # with tokens each
SEEN, RARE = 100, 8  # answers that begin so, for a test; expected counts that are added up
LIMIT = 5.0  # standard deviations
QUESTION = "<|im_start|>user\nTell me a story about a cat.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
BEGUN = "Once upon a time there was a"  # what follows can be many things


def distribution(logits: np.ndarray, settings: Sampling, written: tuple[int, ...]) -> np.ndarray:
    """What the samplers leave of a row, by their definitions."""
    row = logits.astype(np.float64)
    row[list(set(written))] -= settings.presence_penalty
    row[row < np.sort(row)[-settings.top_k]] = -np.inf
    p = np.exp(row - row.max())
    order = np.argsort(-p)
    kept = order[: 1 + np.searchsorted(np.cumsum(p[order]) / p.sum(), settings.top_p)]
    found = np.zeros(len(p))
    found[kept] = np.exp((row[kept] - row.max()) / settings.temperature)
    return found / found.sum()


def statistic(counts: Counter[int], p: np.ndarray) -> tuple[float, int]:
    """Chi-square and its degrees of freedom, with rare tokens as one."""
    total = sum(counts.values())
    assert not [token for token in counts if p[token] == 0], "a token that the samplers exclude"
    often = np.flatnonzero(p * total >= RARE)
    seen = np.array([*(counts[token] for token in often), total - sum(counts[token] for token in often)])
    expected = np.array([*(p[often] * total), (1 - p[often].sum()) * total])
    if expected[-1] < RARE:
        seen, expected = seen[:-1], expected[:-1]
    return float(((seen - expected) ** 2 / expected).sum()), len(seen) - (1 if expected.sum() > total - 1e-6 else 0)


def deviations(chi: float, freedom: int, samples: int) -> float:
    """How far chi-square is from its mean, in standard deviations (Wilson, Hilferty 1931)."""
    found = ((chi / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / np.sqrt(2 / (9 * freedom))
    print(f"{samples:,} samples, chi-square {chi:.1f} with {freedom} degrees of freedom, {found:.2f} deviations")
    return float(found)


class Row:
    """A row of logits in place of a context."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def logits(self, row: int) -> np.ndarray:
        del row
        return self._logits


@pytest.mark.slow
def test_drafts_leave_the_distribution_as_it_is(tmp_path: Path) -> None:
    file = hf_to_gguf.convert(TINY, "F32", tmp_path)[0]
    texts: list[tuple[int, ...]] = []
    drafted = accepted = 0
    spec = ContextSpec(1024, n_threads=1, kv_type="f32", flash_attention=False)
    with Model(file, ModelSpec(mtp=True)) as model, OneRequest(model, spec, draft=3) as engine:
        prompt = model.tokenize(QUESTION + BEGUN)
        engine.prefill(prompt)
        for seed in range(ANSWERS):
            with Sampler(model, THINKING, seed) as sampler:
                texts.append(tuple(engine.generate(sampler, limit=LENGTH)))
            drafted, accepted = drafted + engine.drafts.drafted, accepted + engine.drafts.accepted
        n_vocab = model.n_vocab
    assert 0.3 < accepted / drafted < 1
    following: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for text in texts:
        for place in range(LENGTH):
            following[text[:place]][text[place]] += 1
    chi, freedom, samples = 0.0, 0, 0
    with llama.loaded(file) as loaded:
        for written, counts in following.items():
            if sum(counts.values()) < SEEN:
                continue
            tokens = [*prompt, *written]
            with llama.context(loaded, len(tokens)) as ctx:
                row = llama.decode(ctx, tokens, 0, n_vocab)[-1]
            one, degrees = statistic(counts, distribution(row, THINKING, written))
            chi, freedom, samples = chi + one, freedom + degrees, samples + sum(counts.values())
    print(f"{accepted} of {drafted} drafts accepted")
    assert samples >= ANSWERS * LENGTH / 2
    assert abs(deviations(chi, freedom, samples)) < LIMIT


@pytest.mark.slow
def test_100_000_samples_have_the_distribution(tmp_path: Path) -> None:
    file = hf_to_gguf.convert(TINY, "F32", tmp_path)[0]
    rows: list[tuple[tuple[int, ...], np.ndarray, np.ndarray]] = []
    written: tuple[int, ...] = ()
    with Model(file) as model, llama.loaded(file) as loaded:
        prompt = model.tokenize(QUESTION + BEGUN)
        for place in range(20):
            with llama.context(loaded, len(prompt) + place) as ctx:
                row = llama.decode(ctx, [*prompt, *written], 0, model.n_vocab)[-1]
            p = distribution(row, THINKING, written)
            if p.max() < 0.95:
                rows.append((written, row, p))
            written = (*written, int(np.random.default_rng(place).choice(len(p), p=p)))
        each = -(-SAMPLES // len(rows))
        chi, freedom = 0.0, 0
        for written, row, p in rows:
            counts: Counter[int] = Counter()
            for seed in range(each):
                with Sampler(model, THINKING, seed) as sampler:
                    sampler.accept(*written)
                    counts[sampler.sample(Row(row), 0)] += 1  # type: ignore[arg-type]
            one, degrees = statistic(counts, p)
            chi, freedom = chi + one, freedom + degrees
    assert abs(deviations(chi, freedom, each * len(rows))) < LIMIT
