"""Recurrent states that are updated in place: sequences that stay in their cells compute what each computes alone, and
what they compute the stock way, when their states move (they are gathered and written back); and a state rolled back is
the state of that time.

On a stock llama-cpp-python all sides use the stock way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from oracles import llama
from qwen35_gguf.convert import hf_to_gguf

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def gguf(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = checkpoint(value_heads_per_key=2, seed=1)
    (file,) = hf_to_gguf.convert(source, "F32", tmp_path_factory.mktemp("in-place"), vision=False)
    return file


def vocabulary(model: Any) -> int:
    return int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))


def random_tokens(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 2033, count).tolist()


def decode_sequences(
    ctx: Any, parts: list[list[int]], starts: int | list[int], vocab: int, order: list[int] | None = None
) -> list[Array]:
    """Evaluate one part of each sequence in a single batch, in that order; logits for every token of each."""
    order = order or list(range(len(parts)))
    begins = starts if isinstance(starts, list) else [starts] * len(parts)
    rows: list[list[Array]] = [[] for _ in parts]
    entries = [(sequence, offset) for sequence in order for offset in range(len(parts[sequence]))]
    batch = llama_cpp.llama_batch_init(len(entries), 0, 1)
    try:
        batch.n_tokens = len(entries)
        for at, (sequence, offset) in enumerate(entries):  # a part may be empty: that sequence is not in this batch
            batch.token[at], batch.pos[at] = parts[sequence][offset], begins[sequence] + offset
            batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, sequence, 1
        assert llama_cpp.llama_decode(ctx, batch) == 0
        for at, (sequence, _) in enumerate(entries):
            row = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx, at), (vocab,))
            rows[sequence].append(row.copy())
    finally:
        llama_cpp.llama_batch_free(batch)
    return [np.array(found) for found in rows]


@pytest.mark.parametrize("steps", [[40], [1] * 12, [13, 1, 1, 7, 2, 3, 1], [100, 1, 1]])
def test_one_sequence_computes_what_two_compute_together(gguf: Path, steps: list[int]) -> None:
    sequences = [random_tokens(sum(steps), 1), random_tokens(sum(steps), 2)]
    with llama.loaded(gguf) as model:
        vocab = vocabulary(model)
        with llama.context(model, 2 * sum(steps), n_seq_max=2) as ctx:
            together: list[list[Array]] = [[], []]
            start = 0
            for step in steps:
                parts = [tokens[start : start + step] for tokens in sequences]
                for found, rows in zip(together, decode_sequences(ctx, parts, start, vocab), strict=True):
                    found.append(rows)
                start += step
        for tokens, found in zip(sequences, together, strict=True):
            with llama.context(model, sum(steps)) as ctx:
                start, alone = 0, []
                for step in steps:
                    alone.append(llama.decode(ctx, tokens[start : start + step], start, vocab))
                    start += step
            assert llama.mean_kl(np.concatenate(found), np.concatenate(alone)) < 1e-8


STEPS = [[5] * 5, [1] * 5, [1] * 5, [3] * 5, [1, 3, 1, 3, 2], [1] * 5, [9, 1, 1, 1, 1], [2] * 5, [1] * 5]


def in_steps(ctx: Any, sequences: list[list[int]], vocab: int, orders: list[list[int]]) -> list[Array]:
    """Evaluate several sequences together, in `STEPS`; the orders of the sequences take turns."""
    starts, found = [0] * len(sequences), [[] for _ in sequences]  # type: ignore[var-annotated]
    for number, counts in enumerate(STEPS):
        parts = [tokens[at : at + n] for tokens, at, n in zip(sequences, starts, counts, strict=True)]
        for rows, some in zip(
            found, decode_sequences(ctx, parts, starts, vocab, orders[number % len(orders)]), strict=True
        ):
            rows.extend(some)
        starts = [at + n for at, n in zip(starts, counts, strict=True)]
    return [np.array(rows) for rows in found]


@pytest.mark.parametrize("rollback", [0, 3])
def test_five_sequences_compute_what_each_computes_alone(gguf: Path, rollback: int) -> None:
    """In one order their states stay in their cells; in orders that take turns they move at every step."""
    lengths = [sum(counts) for counts in zip(*STEPS, strict=True)]
    sequences = [random_tokens(length, 10 + i) for i, length in enumerate(lengths)]
    options = {"n_seq_max": 5, "kv_unified": True, "n_rs_seq": rollback}
    with llama.loaded(gguf) as model:
        vocab = vocabulary(model)
        with llama.context(model, 300, **options) as ctx:
            staying = in_steps(ctx, sequences, vocab, [[0, 1, 2, 3, 4]])
        with llama.context(model, 300, **options) as ctx:
            moving = in_steps(ctx, sequences, vocab, [[0, 1, 2, 3, 4], [3, 1, 4, 0, 2], [4, 3, 2, 1, 0]])
        for tokens, stayed, moved in zip(sequences, staying, moving, strict=True):
            with llama.context(model, 100) as ctx:
                alone = llama.decode(ctx, tokens, 0, vocab)
            assert llama.mean_kl(alone, stayed) < 1e-8
            assert llama.mean_kl(alone, moved) < 1e-8


def test_sequences_roll_back_by_different_numbers(gguf: Path) -> None:
    prompt, draft, after = 9, 4, 5
    rejected = [0, 1, 2, 3]
    prompts = [random_tokens(prompt, 20 + i) for i in range(4)]
    drafts = [random_tokens(draft, 30 + i) for i in range(4)]
    continued = [random_tokens(after, 40 + i) for i in range(4)]
    with llama.loaded(gguf) as model:
        vocab = vocabulary(model)
        with llama.context(model, 200, n_seq_max=4, kv_unified=True, n_rs_seq=3) as ctx:
            decode_sequences(ctx, prompts, 0, vocab)
            decode_sequences(ctx, drafts, prompt, vocab)
            kept = [prompt + draft - number for number in rejected]
            for sequence, end in enumerate(kept):
                assert llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(ctx), sequence, end, -1)
            found = decode_sequences(ctx, [tokens[:1] for tokens in continued], kept, vocab)
            starts = [end + 1 for end in kept]
            rest = decode_sequences(ctx, [tokens[1:] for tokens in continued], starts, vocab)
        for i, end in enumerate(kept):
            whole = (prompts[i] + drafts[i])[:end] + continued[i]
            with llama.context(model, 100) as ctx:
                expected = llama.decode(ctx, whole, 0, vocab)[end:]
            assert llama.mean_kl(expected, np.concatenate([found[i], rest[i]])) < 1e-8


def test_sequences_that_change_places_keep_their_states(gguf: Path) -> None:
    """Alone, together, alone: the states move between cells, and are in place only when nothing has to move."""
    sequences = [random_tokens(30, 3), random_tokens(30, 4)]
    with llama.loaded(gguf) as model:
        vocab = vocabulary(model)
        with llama.context(model, 100, n_seq_max=2) as ctx:
            found: list[list[Array]] = [[], []]
            for start, alone in ((0, None), (10, 1), (10, 0), (20, None)):
                parts = [
                    tokens[start : start + 10] if alone in (None, sequence) else []
                    for sequence, tokens in enumerate(sequences)
                ]
                for rows, some in zip(found, decode_sequences(ctx, parts, start, vocab), strict=True):
                    rows.extend(some)
        for tokens, rows in zip(sequences, found, strict=True):
            with llama.context(model, 100) as ctx:
                expected = llama.decode(ctx, tokens, 0, vocab)
            assert llama.mean_kl(expected, np.stack(rows)) < 1e-8


@pytest.mark.parametrize("prompt", [1, 2, 5, 50])
@pytest.mark.parametrize(("drafted", "rejected"), [(2, 1), (3, 1), (3, 2), (4, 3), (7, 3)])
def test_a_state_rolled_back_is_the_state_of_that_time(gguf: Path, prompt: int, drafted: int, rejected: int) -> None:
    """The first token of a draft is the one that was sampled, and stays: states older than the batch are not kept."""
    tokens = random_tokens(prompt, 5)
    draft, after = random_tokens(drafted, 6), random_tokens(6, 7)
    with llama.loaded(gguf) as model:
        vocab = vocabulary(model)
        with llama.context(model, 100, n_rs_seq=3) as ctx:
            llama.decode(ctx, tokens, 0, vocab)
            llama.decode(ctx, draft, prompt, vocab)
            kept = prompt + drafted - rejected
            assert llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(ctx), 0, kept, -1)
            found = [llama.decode(ctx, after[:3], kept, vocab)]
            found += [llama.decode(ctx, [token], kept + 3 + i, vocab) for i, token in enumerate(after[3:])]
        whole = (tokens + draft)[:kept] + after
        with llama.context(model, 100) as ctx:
            expected = llama.decode(ctx, whole, 0, vocab)[kept:]
    assert llama.mean_kl(expected, np.concatenate(found)) < 1e-8
