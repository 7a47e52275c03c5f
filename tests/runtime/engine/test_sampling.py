"""Settings from presets, files and requests; tokens as llama.cpp's own chain over the whole vocabulary chooses them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.engine.sampling import NOT_THINKING, THINKING, Sampling, choose, chosen, new_seed
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.llama.sampling.gumbel import gumbel_noise
from qwen35_gguf.runtime.llama.sampling.samplers import CANDIDATE, Chain, Dry, candidate_array, preselect, remaining

N = 5000


def by_noise(left: np.ndarray[Any, Any], place: int) -> int:
    """Choose among what llama.cpp leaves."""
    return int(left["id"][(left["logit"] + gumbel_noise(5, place, left["id"])).argmax()])


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
        Sampling(temperature=1.0, top_n_sigma=1.5, top_k=0, top_p=1.0, presence_penalty=0),
        Sampling(temperature=1.0, top_n_sigma=2.0, presence_penalty=1.0),
        Sampling(temperature=1.0, top_k=40, top_p=1.0, xtc_probability=0.5, xtc_threshold=0.05, presence_penalty=0),
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
            top_n_sigma=how.top_n_sigma,
            xtc=(how.xtc_probability, how.xtc_threshold),
        )

    rng = np.random.default_rng(1)
    with chain() as mine, chain() as whole:
        for step in range(200):
            logits = rng.normal(size=N).astype(np.float32) * 3
            candidates = np.zeros(N, CANDIDATE)
            candidates["id"], candidates["logit"] = np.arange(N), logits
            array = candidate_array(llama_cpp, candidates)
            llama_cpp.llama_sampler_apply(whole.pointer, ctypes.byref(array))
            expected = (
                array.data[array.selected].id if array.selected >= 0 else by_noise(remaining(array, candidates), step)
            )
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


# ---- samplers of their own -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(files: list[Path]) -> Iterator[Model]:
    with Model(files[0]) as loaded:
        yield loaded


PLAIN = {"top_k": 0, "top_p": 1, "min_p": 0, "presence": 0, "frequency": 0, "repeat": 1, "seed": 0}


@pytest.mark.parametrize(("base", "length", "last_n"), [(1.75, 2, -1), (1.2, 3, -1), (2.0, 1, 12)])
def test_dry_lowers_what_continues_a_repetition_as_its_formula_does(
    model: Model, base: float, length: int, last_n: int
) -> None:
    """The oracle counts by hand: multiplier * base ** (repeated - allowed)."""
    one, two, three, four = (model.tokenize(text)[-1] for text in (" one", " two", " tree", " four"))
    written = [one, two, three, four, one, two, three]
    logits = np.full(model.n_vocab, -10, np.float32)
    logits[four], logits[one] = 5.0, 5.0 - 0.8 * base ** (3 - length) + 0.01
    with Chain(model.n_vocab, temperature=0, dry=Dry(model, 0.8, base, length, last_n), **PLAIN) as chain:
        assert chain.choose(logits) == four
        for token in written:
            chain.accept(token)
        assert chain.choose(logits) == one
        logits[one] -= 0.02
        assert chain.choose(logits) == four


def test_a_break_ends_a_repetition(model: Model) -> None:
    one, two, four, line = (model.tokenize(text)[-1] for text in (" one", " two", " four", "\n"))
    logits = np.full(model.n_vocab, -10, np.float32)
    logits[four], logits[one] = 5.0, 4.9
    for between, expected in ((two, one), (line, four)):
        with Chain(model.n_vocab, temperature=0, dry=Dry(model, 0.8, 1.75, 2, -1), **PLAIN) as chain:
            for token in (one, one, between, four, one, one, between):
                chain.accept(token)
            assert chain.choose(logits) == expected


def chosen_one_by_one(chain: Chain, logits: np.ndarray[Any, Any], count: int) -> list[int]:
    found = []
    for _ in range(count):
        found.append(chain.choose(logits))
        chain.accept(found[-1])
    return found


def test_xtc_leaves_the_most_probable_out_but_for_the_last_of_them() -> None:
    logits = np.full(N, -30, np.float32)
    logits[[3, 5, 7]] = np.log([0.5, 0.3, 0.2])
    with Chain(N, temperature=1, xtc=(1.0, 0.25), **PLAIN) as chain:
        found = set(chosen_one_by_one(chain, logits, 200))
    assert found == {5, 7}


def test_top_n_sigma_keeps_what_is_near_the_best() -> None:
    logits = np.random.default_rng(0).normal(size=N).astype(np.float32)
    allowed = np.flatnonzero(logits >= logits.max() - 0.5 * logits.std())
    with Chain(N, temperature=5, top_n_sigma=0.5, **PLAIN) as chain:
        found = set(chosen_one_by_one(chain, logits, 300))
    assert found <= set(allowed.tolist())
    assert len(found) > 1


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
