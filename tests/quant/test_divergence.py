"""Statistics of divergence against torch in float64, and the file of reference logits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import LogitsError
from qwen35_gguf.evaluation import logits_file
from qwen35_gguf.evaluation.logits_file import Header
from qwen35_gguf.quant.divergence import Accumulator, log_softmax


def random_logits(rows: int, vocabulary: int, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return np.float32(np.random.default_rng(seed).normal(0, scale, (rows, vocabulary)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("shape", [(20_001,), (3, 1000)])
def test_log_softmax_equals_that_of_torch(shape: tuple[int, ...], dtype: type, tolerance: float) -> None:
    logits = np.float32(np.random.default_rng(5).normal(0, 3, shape))
    found = log_softmax(logits, dtype)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, torch.log_softmax(torch.from_numpy(logits).double(), -1), atol=tolerance)


@pytest.mark.parametrize("vocabulary", [7, 1000, 20_001])
def test_figures_equal_those_of_torch(vocabulary: int) -> None:
    a = random_logits(300, vocabulary)
    b = a + random_logits(300, vocabulary, 1, 0.3)
    targets = np.random.default_rng(2).integers(0, vocabulary, 300)
    found = Accumulator()
    for start in range(0, 300, 77):
        part = slice(start, start + 77)
        found.add(log_softmax(a[part]), b[part], targets[part])
    figures = found.figures()

    p, q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (a, b))
    divergence = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    loss, base = (torch.nn.functional.nll_loss(x, torch.from_numpy(targets), reduction="none") for x in (q, p))
    assert figures.tokens == 300
    assert figures.mean.value == pytest.approx(divergence.mean().item(), rel=1e-3)
    assert figures.mean.error == pytest.approx(divergence.std().item() / math.sqrt(300), rel=5e-3)
    assert figures.median.value == pytest.approx(divergence.median().item(), rel=0.05)
    assert figures.maximum == pytest.approx(divergence.max().item(), rel=5e-3)
    assert figures.perplexity.value == pytest.approx(loss.mean().exp().item(), rel=1e-5)
    assert figures.reference_perplexity.value == pytest.approx(base.mean().exp().item(), rel=1e-5)
    assert figures.log_ratio.value == pytest.approx((loss - base).mean().item(), abs=1e-6)
    assert figures.log_ratio.error == pytest.approx((loss - base).std().item() / math.sqrt(300), rel=1e-4)
    assert figures.same_top.value == (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert figures.rms_dp == pytest.approx(((-loss).exp() - (-base).exp()).square().mean().sqrt().item(), rel=1e-4)


def test_a_model_does_not_differ_from_itself() -> None:
    a, found = random_logits(50, 500), Accumulator()
    found.add(log_softmax(a), a, np.zeros(50, np.int64))
    figures = found.figures()
    assert figures.mean.value == pytest.approx(0, abs=1e-7)
    assert figures.same_top.value == 1
    assert figures.same_top.low > 0.9  # fifty of fifty do not prove that it is always so
    assert figures.same_top.high == pytest.approx(1)


def test_intervals_hold_the_true_value_as_often_as_they_say() -> None:
    r, inside = np.random.default_rng(0), np.zeros(3)
    for _ in range(400):
        found = Accumulator()
        values = r.gamma(2.0, 1.0, 400)
        found._parts.append((values, values, values, (r.random(400) < 0.9).astype(float)))
        f = found.figures()
        for i, (figure, true) in enumerate([(f.mean, 2), (f.median, 1.67835), (f.same_top, 0.9)]):
            inside[i] += figure.low <= true <= figure.high
    assert ((inside / 400 > 0.92) & (inside / 400 < 0.985)).all(), inside / 400


def test_without_rows_there_are_no_figures() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Accumulator().figures()


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), vocabulary=st.integers(1, 700), scale=st.sampled_from([0.0, 0.1, 3.0, 40.0]))
def test_rows_come_back_within_half_a_step(rows: int, vocabulary: int, scale: float) -> None:
    logits = random_logits(rows, vocabulary, 3, scale)
    normal = log_softmax(logits)
    found = logits_file.decode(logits_file.encode(logits), vocabulary)
    step = 16 / 65535
    wanted = np.maximum(normal, normal.max(-1, keepdims=True) - 16)
    assert np.abs(found - wanted).max() <= 0.51 * step + 4e-6


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    header = Header(16, 33, np.arange(32, dtype=np.int32).reshape(2, 16))
    path = tmp_path / "base"
    with logits_file.writing(path, header) as file:
        for _ in range(2):
            file.write(logits_file.encode(random_logits(7, 33)).tobytes())
    raw = path.read_bytes()
    assert logits_file.read_header(path).tokens.tolist() == header.tokens.tolist()
    cut = data.draw(st.integers(0, len(raw) - 1))
    path.write_bytes(raw[:cut])
    with pytest.raises(LogitsError, match="base: is"):
        logits_file.read_header(path)


def test_an_interrupted_file_is_not_left_behind(tmp_path: Path) -> None:
    header = Header(16, 33, np.zeros((1, 16), np.int32))
    with pytest.raises(KeyboardInterrupt), logits_file.writing(tmp_path / "base", header):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
