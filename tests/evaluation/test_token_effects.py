"""Effects of tokens are the divergence that noise at them causes: what gradients say, without gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from oracles.paths import ROOT
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.evaluation import token_effects
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.evaluation.token_effects import TokenEffects
from qwen35_gguf.runtime.llama.model import Model, ModelSpec

TINY = ROOT / "examples" / "tiny-qwen3.5"
SAMPLES = 16


def random_ids(count: int = 70) -> list[int]:
    return np.random.default_rng(0).integers(0, 2033, count).tolist()


def test_they_are_the_same_in_every_run_and_resume(files: list[Path], tmp_path: Path) -> None:
    ids, kept = random_ids(), tmp_path / "kept"
    with Model(files[0], ModelSpec()) as model:
        found = token_effects.measure(model, ids, spacing=4, save=lambda all_: token_effects.write(kept, "a", all_))
        again = token_effects.measure(model, ids, spacing=4)
        begun = token_effects.read(kept, "a", len(ids))
        assert begun is not None
        resumed = token_effects.measure(model, ids, begun, spacing=1)
    assert (found.stream == again.stream).all()
    assert (found.stream == resumed.stream).all()
    assert (found.stream > 0).all()
    assert ((found.output > 0) & (found.output < 1)).all()
    assert token_effects.read(kept, "b", len(ids)) is None
    assert token_effects.read(kept, "a", len(ids) + 1) is None
    kept.write_bytes(b"PK damaged")
    assert token_effects.read(kept, "a", len(ids)) is None


def test_without_noise_there_is_no_effect_and_all_tokens_count_alike(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_effects, "NOISE", 0.0)
    with Model(files[0], ModelSpec()) as model:
        found = token_effects.measure(model, random_ids(20), spacing=4)
    assert found.stream.max() < 1e-6
    assert (TokenEffects(np.zeros(5), np.ones(5)).weights().stream == 1).all()


def test_few_tokens_do_not_decide_everything() -> None:
    effect = np.ones(1000)
    effect[3] = 1e6
    weights = TokenEffects(effect, effect).weights().stream
    assert weights.max() < 2
    assert weights.mean() == pytest.approx(1)


@pytest.mark.slow
def test_they_are_what_gradients_say(tmp_path: Path) -> None:
    (file,) = hf_to_gguf.convert(TINY, "F32", tmp_path, vision=False)
    with Model(file, ModelSpec()) as model:
        ids = splitter(TINY / "calibration.txt", "text")(model)[: token_effects.PIECE]
        found = token_effects.measure(model, ids, spacing=16)
    net = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(TINY, dtype=torch.float32).eval()
    streams: list[torch.Tensor] = []
    for module in net.modules():
        if type(module).__name__ == "Qwen3_5DecoderLayer":
            module.register_forward_hook(lambda _module, _inputs, out: (out.retain_grad(), streams.append(out))[0])
    logits = net(input_ids=torch.tensor([ids])).logits[0]
    probabilities = logits.softmax(-1).detach()
    expected = np.zeros(len(ids))
    torch.manual_seed(0)
    for _ in range(SAMPLES):  # the expected squared gradient of the likelihood is the curvature of the divergence
        drawn = torch.multinomial(probabilities, 1)
        logits.log_softmax(-1).gather(1, drawn).sum().backward(retain_graph=True)
        for stream in streams:
            expected += (stream.grad[0].square().sum(-1) * stream[0].square().mean(-1)).detach().numpy()
            stream.grad = None
    np.testing.assert_allclose(found.output, 1 - probabilities.square().sum(-1).numpy(), atol=0.02)
    assert np.corrcoef(np.sqrt(found.stream), np.sqrt(expected))[0, 1] > 0.7
