"""The trained demo model says what it should, sees, and suffers from few bits; training can be interrupted."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from oracles.paths import ROOT
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.evaluation import kl_divergence
from qwen35_gguf.evaluation.texts.files import read_text
from qwen35_gguf.runtime import Qwen35

EXAMPLES = ROOT / "examples"
TINY = EXAMPLES / "tiny-qwen3.5"


@pytest.fixture(scope="module", autouse=True)
def modules(make_checkpoint: object) -> Iterator[None]:  # noqa: ARG001
    """The example's modules stand beside it and are imported as scripts are."""
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    hf_to_gguf.convert(TINY, "Q4_K_M", made)
    for quant in ("F32", "Q8_0", "Q2_K"):
        hf_to_gguf.convert(TINY, quant, made, vision=False)
    return made


def gguf(folder: Path, quant: str) -> Path:
    return next(folder.glob(f"Tiny*-{quant}.gguf"))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_it_is_small_and_whole() -> None:
    assert sum(path.stat().st_size for path in TINY.iterdir()) < 16e6
    figures = json.loads((TINY / "training.json").read_text())
    assert 4e6 < figures["parameters"] < 8e6
    assert figures["picture_accuracy"] >= 0.9
    assert figures["mtp_acceptance"] >= 0.5


def test_it_answers_at_four_bits(folder: Path) -> None:
    with Qwen35(gguf(folder, "Q4_K_M"), n_threads=1, draft=2) as model:  # "auto" may find that drafts do not pay

        def ask(question: str, **options: object) -> object:
            messages = [{"role": "user", "content": question}]
            return model.chat(messages, temperature=0, seed=1, max_tokens=100, **options)

        assert ask("What is the capital of France?", thinking=False).choices[0].message.content == (
            "The capital of France is Paris."
        )
        thought = ask("What is 3 plus 4?", thinking=True)
        assert "7" in thought.choices[0].message.content
        assert thought.choices[0].message.reasoning_content
        story = ask("Tell me a story.", thinking=False)
        assert story.timings.accepted > 0.5 * story.timings.drafted > 0


def test_it_sees_images_that_it_was_never_shown(folder: Path) -> None:
    from tiny_model import corpus_scenes

    r = Random("a test")
    scenes = [corpus_scenes.image(r, held_out=True, count=1) for _ in range(20)]
    with Qwen35(gguf(folder, "Q4_K_M"), n_threads=1) as model:
        right = 0
        for scene in scenes:
            parts = [
                {"type": "image", "image": png(scene.frames[0])},
                {"type": "text", "text": corpus_scenes.DESCRIBE_IMAGE},
            ]
            answer = model.chat([{"role": "user", "content": parts}], thinking=False, temperature=0, max_tokens=40)
            right += answer.choices[0].message.content == corpus_scenes.description(scene)
    assert right >= 17


def test_two_bits_hurt_and_eight_do_not(folder: Path, tmp_path: Path) -> None:
    text = read_text(TINY / "evaluation.txt")
    kl_divergence.save_reference(
        gguf(folder, "F32"), lambda model: model.tokenize(text), tmp_path / "base", chunk=256, chunks=40, threads=2
    )
    found = {
        quant: kl_divergence.evaluate(gguf(folder, quant), tmp_path / "base", threads=2) for quant in ("Q8_0", "Q2_K")
    }
    assert found["Q8_0"].mean.value < 2e-4
    assert found["Q2_K"].mean.value > 100 * found["Q8_0"].mean.value
    assert found["Q2_K"].log_ratio.low > 0.002  # worse beyond doubt
    assert found["Q8_0"].log_ratio.high < 0.005
    assert 1 < found["Q8_0"].reference_perplexity.value < 4  # the prose is hard, the chats are not


@pytest.mark.slow
def test_training_that_was_interrupted_ends_at_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import make_checkpoint
    import tokenizers
    import train_tiny
    from tiny_model import batches, network

    stages = [
        train_tiny.Stage("text", 3, 1e-3, rows=1, scenes=1, clips=1, length=64),
        train_tiny.Stage("vision", 2, 1e-3, rows=0, scenes=2, clips=1, vision_only=True),
    ]
    ranks = make_checkpoint.load_ranks(network.SPEC.ranks)
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(make_checkpoint.tokenizer_json(ranks)))

    def fresh() -> network.Network:
        torch.manual_seed(0)
        return network.Network(network.SPEC, batches.probe_classes())

    whole = fresh()
    assert train_tiny.train(whole, stages, tokenizer, report=lambda _line: None)
    clock = itertools.count()
    # A clock of this module alone: with that of the process, servers of other tests would wait for an hour to come.
    monkeypatch.setattr(train_tiny, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    state, net, runs = tmp_path / "state.pt", fresh(), 1
    options = {"state": state, "resume": True, "seconds": 4.5, "report": lambda _line: None}
    while not train_tiny.train(net, stages, tokenizer, **options):
        net, runs = fresh(), runs + 1
    assert runs > 1
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], tensor, rtol=1e-5, atol=1e-7)
