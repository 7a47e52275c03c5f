"""Settings from presets, files and requests; tokens as llama.cpp's own chain over the whole vocabulary chooses them."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.engine.sampling import NOT_THINKING, THINKING, Sampling, choose, chosen, new_seed
from qwen35_gguf.runtime.llama.samplers import CANDIDATE, Chain, candidate_array, preselect

N = 5000


@pytest.mark.parametrize(
    "how",
    [
        Sampling(temperature=0, presence_penalty=0),
        Sampling(temperature=0, presence_penalty=1.0),
        THINKING,
        NOT_THINKING,
        Sampling(temperature=0.8, top_k=0, top_p=0.9, min_p=0.05, presence_penalty=0),
        Sampling(temperature=1.2, top_k=40, top_p=1.0, repeat_penalty=1.1, frequency_penalty=0.3),
        Sampling(temperature=1.0, top_k=30, presence_penalty=-1.0),
    ],
)
def test_the_choice_is_that_of_the_whole_chain(how: Sampling) -> None:
    def chain() -> Chain:
        return Chain(
            N,
            temperature=how.temperature,
            top_k=how.top_k,
            top_p=how.top_p,
            min_p=how.min_p,
            presence=how.presence_penalty,
            frequency=how.frequency_penalty,
            repeat=how.repeat_penalty,
            seed=5,
        )

    rng = np.random.default_rng(1)
    with chain() as mine, chain() as whole:
        for _ in range(200):
            logits = rng.normal(size=N).astype(np.float32) * 3
            candidates = np.zeros(N, CANDIDATE)
            candidates["id"], candidates["logit"] = np.arange(N), logits
            array = candidate_array(llama_cpp, candidates)
            llama_cpp.llama_sampler_apply(whole.pointer, ctypes.byref(array))
            expected = array.data[array.selected].id
            assert mine.choose(logits) == expected
            mine.accept(expected)
            whole.accept(expected)


@given(st.integers(0, 1 << 30), st.integers(1, 3000), st.integers(1, 400))
@settings(deadline=None)
def test_the_preselection_holds_the_highest(seed: int, size: int, count: int) -> None:
    logits = np.random.default_rng(seed).integers(0, 50, size).astype(np.float32)
    found = logits[preselect(logits, count)]
    expected = np.sort(logits)[::-1][:count]
    np.testing.assert_array_equal(np.sort(found)[::-1][: len(expected)], expected)


def test_the_preselection_is_small() -> None:
    logits = np.random.default_rng(0).normal(size=248_320).astype(np.float32)
    assert len(preselect(logits, 1044)) < 3000


# ---- settings ----------------------------------------------------------------------------------------------------


def test_the_request_wins_over_the_file_and_the_file_over_the_preset() -> None:
    stored = {"general.sampling.temp": "0.5", "general.sampling.top_k": "7", "general.sampling.top_p": "nonsense"}
    found = choose(NOT_THINKING, stored, {"top_k": 3, "min_p": None})
    assert found == replace(NOT_THINKING, temperature=0.5, top_k=3, top_p=THINKING.top_p)


def test_temperature_0_takes_the_likeliest_without_penalties() -> None:
    assert choose(THINKING, {}, {"temperature": 0}).presence_penalty == 0
    assert choose(THINKING, {}, {"temperature": 0, "presence_penalty": 1}).presence_penalty == 1


@pytest.mark.parametrize("value", [float("nan"), "1", True, 1e9, -3])
def test_values_out_of_range(value: object) -> None:
    with pytest.raises(MessageError, match="top_p: "):
        choose(THINKING, {}, {"top_p": value})  # type: ignore[dict-item]


def test_seeds() -> None:
    assert new_seed(5) == 5
    assert new_seed(None) != new_seed(None)
    with pytest.raises(MessageError, match="seed: 1.5"):
        new_seed(1.5)  # type: ignore[arg-type]


def test_log_probabilities_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    logits = np.random.default_rng(0).normal(0, 5, 1000).astype(np.float32)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), 0)
    found = chosen(logits, 7, 5)
    assert found.logprob == pytest.approx(float(expected[7]), abs=1e-5)
    values, ids = torch.topk(expected, 5)
    assert [token for token, _ in found.best] == ids.tolist()
    assert [logprob for _, logprob in found.best] == pytest.approx(values.tolist(), abs=1e-5)
    assert chosen(logits, 7, 0).best == ()
