"""Answers with drafts that read some rows of the output matrix: the same text, with the rows that pay."""

from __future__ import annotations

from pathlib import Path

import pytest

from inputs.one_request import OneRequest
from oracles.paths import TINY
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.drafts import measured_costs, mtp
from qwen35_gguf.runtime.engine.drafts.row_costs import ALL, RowCosts, row_counts
from qwen35_gguf.runtime.engine.sampling import THINKING, Sampler, Sampling
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.llama.model import Model, ModelSpec

runtime = installed_runtime()
pytestmark = pytest.mark.skipif(not (runtime and runtime.patches), reason="a stock llama.cpp drafts from all rows")

QUESTION = "<|im_start|>user\nTell me a story about a cat.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
TOKENS = 60
SPEC = ContextSpec(1024, n_threads=1, kv_type="f32", flash_attention=False)
MILLISECONDS = [20.0, 21.0, 22.0, 23.0, 24.0]  # of 1 to 5 tokens in a call


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_to_gguf.convert(TINY, "F32", tmp_path_factory.mktemp("demo"))[0]


def answer(demo: Path, settings: Sampling, draft: int | str, monkeypatch: pytest.MonkeyPatch, share: float) -> tuple:  # type: ignore[type-arg]
    """The tokens of an answer, and the rows that its drafts read, where a draft costs `share` with the fewest rows."""
    seconds = [each / 1000 for each in MILLISECONDS]

    def measured(main: Context, *_: object) -> measured_costs.MeasuredCosts:
        return measured_costs.MeasuredCosts(seconds, 0.010, RowCosts(main.model.n_vocab, share))

    monkeypatch.setattr(measured_costs, "measure_costs", measured)
    read: list[int] = []
    real = mtp.draft

    def watched(drafters: list[mtp.Drafter], *rest: object) -> list[list[int]]:
        read.append(drafters[0].head.draft_rows)
        return real(drafters, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(mtp, "draft", watched)
    with Model(demo, ModelSpec(mtp=draft != 0)) as model, OneRequest(model, SPEC, draft=draft, ngrams=False) as engine:
        engine.scheduler.warm_up()
        engine.prefill(model.tokenize(QUESTION))
        with Sampler(model, settings, 7) as sampler:
            return engine.generate(sampler, limit=TOKENS), read, row_counts(model.n_vocab), engine.drafts


@pytest.mark.parametrize("settings", [Sampling(temperature=0), THINKING], ids=["greedy", "sampled"])
def test_the_text_is_the_same(demo: Path, settings: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, *_ = answer(demo, settings, 0, monkeypatch, 1.0)
    found, read, counts, drafts = answer(demo, settings, "auto", monkeypatch, 0.05)
    assert found == expected
    assert drafts.accepted > 0
    assert set(read) & set(counts)


def test_all_rows_are_read_where_fewer_save_nothing(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, read, _, drafts = answer(demo, Sampling(temperature=0), "auto", monkeypatch, 1.0)
    assert drafts.accepted > 0
    assert set(read) == {ALL}
