"""The live sequence: reuse, drafts and interrupts do not change what follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inputs.one_request import OneRequest
from oracles import llama
from qwen35_gguf.errors import ContextError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.engine.forest.live_sequence import CACHED_STATES
from qwen35_gguf.runtime.engine.forest.state_store import StateStore
from qwen35_gguf.runtime.engine.job import Job
from qwen35_gguf.runtime.engine.sampling import Sampler, Sampling
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model, ModelSpec

GREEDY = Sampling(temperature=0, presence_penalty=0)
WARM = Sampling(temperature=1.5, top_p=1, presence_penalty=0)
MIXED = Sampling(temperature=0.7, top_p=1, presence_penalty=0)  # repeats a token for a while
START = 1  # stands for the token that begins a message
SPEC = ContextSpec(2048, n_threads=1)


@pytest.fixture(scope="module")
def loaded(files: list[Path]) -> Iterator[Model]:
    with Model(files[0], ModelSpec(mtp=True)) as model:
        yield model


@pytest.fixture(scope="module")
def echo(echoing: Path) -> Iterator[Model]:
    with Model(echoing, ModelSpec(mtp=True)) as model:
        yield model


def engine(model: Model, spec: ContextSpec = SPEC, **options: object) -> OneRequest:
    return OneRequest(model, spec, message_start=START, **options)  # type: ignore[arg-type]


def messages(seed: int, *lengths: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [token for length in lengths for token in [START, *rng.integers(2, 2000, length).tolist()]]


def generate(
    on: OneRequest, model: Model, settings: Sampling = GREEDY, count: int = 24, **options: object
) -> list[int]:
    with Sampler(model, settings, 7) as sampler:
        return on.generate(sampler, limit=count, **options)  # type: ignore[arg-type]


def answer(on: OneRequest, model: Model, prompt: list[int], settings: Sampling = GREEDY) -> list[int]:
    on.prefill(prompt)
    return generate(on, model, settings)


# ---- against llama.cpp used directly -----------------------------------------------------------------------------


def test_greedy_tokens_are_those_of_llama(files: list[Path], loaded: Model) -> None:
    prompt = messages(1, 20)
    with engine(loaded, replace(SPEC, kv_type="f32", flash_attention=False)) as mine:
        found = answer(mine, loaded, prompt)
    tokens = list(prompt)
    with llama.loaded(files[0]) as model, llama.context(model, 64) as ctx:
        logits = llama.decode(ctx, tokens, 0, loaded.n_vocab)
        for _ in range(24):
            tokens.append(int(logits[-1].argmax()))
            logits = llama.decode(ctx, tokens[-1:], len(tokens) - 1, loaded.n_vocab)
    assert found == tokens[len(prompt) :]


# ---- what is used again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft", [0, 2, "auto"])
def test_a_growing_conversation_evaluates_what_is_new_and_says_the_same(loaded: Model, draft: int | str) -> None:
    parts = [messages(2, 300), messages(3, 9), messages(4, 8), messages(5, 12), messages(6, 7)]
    with engine(loaded, draft=draft) as warm:
        for turns in range(1, len(parts)):
            prompt = [token for part in parts[: 1 + turns] for token in part]
            reused = warm.prefill(prompt)
            assert reused == (0 if turns == 1 else len(prompt) - sum(map(len, parts[turns - 1 : turns + 1])))
            found = generate(warm, loaded)
            with engine(loaded) as cold:
                assert answer(cold, loaded, prompt) == found


def test_the_same_prompt_again_evaluates_the_last_message_only(loaded: Model) -> None:
    prompt = messages(1, 50, 20)
    with engine(loaded) as mine:
        first = answer(mine, loaded, prompt)
        assert mine.prefill(prompt) == 51
        assert generate(mine, loaded) == first


def test_a_continued_sequence_is_not_evaluated_again(loaded: Model) -> None:
    with engine(loaded) as mine:
        prompt = messages(1, 50)
        said = answer(mine, loaded, prompt)
        longer = [*prompt, *said, 5, 6]
        assert mine.prefill(longer) == len(prompt) + len(said) - 1  # the last token was sampled and not evaluated
        found = generate(mine, loaded)
    with engine(loaded) as cold:
        assert answer(cold, loaded, longer) == found


def test_another_conversation_and_back(loaded: Model) -> None:
    one, other = messages(1, 700, 9), messages(2, 650, 9)
    with engine(loaded, cache_bytes=1 << 30) as mine:
        first = answer(mine, loaded, one)
        assert mine.prefill(other) == 0
        generate(mine, loaded)
        assert mine.prefill(one) == 701  # from the sequence state that was kept when the other one began
        assert generate(mine, loaded) == first


def test_without_memory_for_states_nothing_is_used_again(loaded: Model) -> None:
    prompt = messages(1, 50, 20)
    with engine(loaded, cache_bytes=0) as mine:
        first = answer(mine, loaded, prompt)
        assert len(mine.cache) == 0
        assert mine.prefill(prompt) == 0
        assert generate(mine, loaded) == first


def test_the_least_recently_used_states_go_and_the_beginning_stays(loaded: Model) -> None:
    prompt = messages(1, 30)
    with engine(loaded) as mine:
        for turn in range(3 * CACHED_STATES):
            prompt += messages(turn, 5)
            mine.prefill(prompt)
        assert 0 < mine.cache.n_bytes <= mine.cache.max_bytes
        assert mine.prefill([*prompt[:31], *messages(99, 40)]) == 31


def test_a_cancelled_prompt_is_continued_where_it_was_left(loaded: Model) -> None:
    prompt = messages(1, 600, 300, 20)
    with engine(loaded, cache_bytes=1 << 30) as mine:

        def interrupt(done: int, _: int) -> None:
            if done > 700:
                raise TimeoutError

        with pytest.raises(TimeoutError):
            mine.prefill(prompt, interrupt)  # what fails leaves nothing
        assert mine.prefill(prompt) == 0
        run = mine.scheduler.add(Job(messages(7, 600, 300), Sampler(loaded, GREEDY, 0), 0, lambda _: ()))
        mine.scheduler.step()
        mine.scheduler.end(run, TimeoutError())
        assert mine.prefill(messages(7, 600, 300)) == 512  # what is cancelled leaves what it evaluated
        found = generate(mine, loaded)
    with engine(loaded) as cold:
        assert answer(cold, loaded, messages(7, 600, 300)) == found


@pytest.mark.parametrize(("kind", "times"), [("f16", 1.5), ("q8_0", 2.2)])
def test_more_states_of_a_smaller_type_fit_and_serve(loaded: Model, kind: str, times: float) -> None:
    parts = [messages(turn, 30) for turn in range(30)]
    kept = {}
    for each in ("f32", kind):
        with engine(loaded, replace(SPEC, checkpoint_type=each)) as mine:
            prompt: list[int] = []
            for part in parts:
                prompt = [*prompt, *part]
                mine.prefill(prompt)
                generate(mine, loaded, count=2)
            kept[each] = len(list(mine.cache.recurrent_states()))
            assert mine.prefill([*prompt[:-31], *messages(99, 9)]) == len(prompt) - 31
            assert len(generate(mine, loaded)) == 24
    assert kept[kind] > times * kept["f32"]


# ---- on disk -----------------------------------------------------------------------------------------------------


def test_states_on_disk_serve_the_next_run(loaded: Model, tmp_path: Path) -> None:
    prompt = messages(1, 1200, 9)
    for reused in (0, 1201):
        with engine(loaded, store=StateStore(tmp_path, "this model")) as mine:
            assert mine.prefill(prompt) == reused
            found = generate(mine, loaded)
    with engine(loaded) as cold:
        assert answer(cold, loaded, prompt) == found
    with engine(loaded, store=StateStore(tmp_path, "another model")) as other:
        assert other.prefill(prompt) == 0


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_a_damaged_state_is_passed_over(loaded: Model, tmp_path: Path, damage: str) -> None:
    prompt = messages(1, 1200, 9)
    with engine(loaded, store=StateStore(tmp_path, "this model")) as mine:
        expected = answer(mine, loaded, prompt)
    (path,) = tmp_path.glob("*.state")
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    with engine(loaded, store=StateStore(tmp_path, "this model")) as mine:
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(data[:-5000] if damage == "truncated" else data)
        assert mine.prefill(prompt) == 0
        assert generate(mine, loaded) == expected


# ---- drafts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("draft", [1, 2, 3, 4, "auto"])
@pytest.mark.parametrize("head", ["random", "echoing"])
def test_drafts_change_nothing(loaded: Model, echo: Model, settings: Sampling, draft: int | str, head: str) -> None:
    model = loaded if head == "random" else echo
    prompt = messages(8, 40)
    with engine(model) as without, engine(model, draft=draft) as drafting:
        assert answer(drafting, model, prompt, settings) == answer(without, model, prompt, settings)


def accepted(tokens: list[int], best: list[int], depth: int) -> tuple[int, int]:
    """How many drafts there are, and how many right ones, if each is the likeliest token of the row before."""
    drafted = right = at = 0
    while at < len(tokens) - 1:
        drafts = min(depth, len(tokens) - at - 2)
        taken = 0
        while taken < drafts and tokens[at + 1 + taken] == best[at]:
            taken += 1
        drafted, right, at = drafted + drafts, right + taken, at + 1 + taken
    return drafted, right


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_acceptance_is_that_of_the_head(echo: Model, depth: int) -> None:
    best: list[int] = []

    class Watched(Sampler):
        def sample(self, context: Context, row: int) -> int:
            best.append(int(context.logits(row).argmax()))
            return super().sample(context, row)

        def draft(self, logits: np.ndarray, ahead: int) -> int:
            del ahead
            return int(logits.argmax())

    totals = np.zeros(2, int)
    with engine(echo, draft=depth, ngrams=False) as mine:
        for seed in range(6):
            mine.prefill(messages(seed, 30))
            best.clear()
            with Watched(echo, MIXED, seed) as sampler:
                tokens = mine.generate(sampler, limit=40)
            expected = accepted(tokens, best, depth)
            assert (mine.drafts.drafted, mine.drafts.accepted) == expected
            totals += expected
    assert 0.04 < totals[1] / totals[0] < 0.95


def test_a_sequence_with_drafts_goes_on_where_it_was_stopped(echo: Model) -> None:
    prompt = messages(3, 40)
    with engine(echo) as cold:
        cold.prefill(prompt)
        expected = generate(cold, echo, count=12)
        rest = answer(cold, echo, [*prompt, *expected[:5]])
    with engine(echo, draft=4) as mine:
        mine.prefill(prompt)
        with Sampler(echo, GREEDY, 7) as sampler:
            said = mine.generate(sampler, limit=100, stop=5)
        assert said == expected[:5]
        assert mine.prefill([*prompt, *said]) >= len(prompt)
        assert generate(mine, echo) == rest


def test_forced_tokens_follow_in_place_of_sampled_ones(loaded: Model) -> None:
    prompt, forced = messages(3, 40), [11, 12, 13]
    with engine(loaded, draft=2) as mine:
        mine.prefill(prompt)
        with Sampler(loaded, GREEDY, 7) as sampler:
            said = mine.generate(sampler, limit=12, force=lambda n: forced if n == 3 else ())
    with engine(loaded) as cold:
        assert cold.prefill([*prompt, *said[:6]]) == 0
        assert generate(cold, loaded, count=9) == said[6:]


# ---- limits ------------------------------------------------------------------------------------------------------


def test_a_prompt_beyond_the_context_is_refused_and_nothing_is_lost(loaded: Model) -> None:
    prompt = messages(1, 50, 9)
    with engine(loaded) as mine:
        mine.prefill(prompt)
        with pytest.raises(ContextError, match=r"3,001 tokens do not fit into a context of 2,048; raise n_ctx"):
            mine.prefill(messages(2, 3000))
        assert mine.prefill(prompt) == 51


@pytest.mark.parametrize("draft", [0, 4])
def test_generation_ends_where_the_context_does(loaded: Model, draft: int) -> None:
    with engine(loaded, draft=draft) as mine:
        mine.prefill(messages(1, 2038))
        assert len(generate(mine, loaded, count=100)) == 2048 - 2039 + 1
