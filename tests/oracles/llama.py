"""llama.cpp as the system under test: logits of a GGUF through the low-level API, F32 caches, no flash attention."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

GGML_TYPE_F32 = 0


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user: ctypes.c_void_p) -> None:
    del level, text, user


@contextmanager
def loaded(gguf: Path, **options: Any) -> Iterator[Any]:
    """Load a model; `options` are fields of llama_model_params."""
    llama_cpp.llama_log_set(_silent, None)
    params = llama_cpp.llama_model_default_params()
    for key, value in options.items():
        setattr(params, key, value)
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), params)
    assert model, f"llama.cpp cannot load {gguf}"
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


@contextmanager
def context(model: Any, tokens: int, n_ubatch: int = 512, **options: Any) -> Iterator[Any]:
    """Make a context for a batch of `tokens` tokens; `options` are fields of llama_context_params."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = max(256, tokens), max(256, tokens), n_ubatch
    params.n_threads = params.n_threads_batch = 2
    params.type_k = params.type_v = GGML_TYPE_F32
    params.flash_attn_type = 0
    for key, value in options.items():
        setattr(params, key, value)
    ctx = llama_cpp.llama_init_from_model(model, params)
    assert ctx, "llama.cpp cannot make a context"
    try:
        yield ctx
    finally:
        llama_cpp.llama_free(ctx)


def fill(batch: Any, tokens: list[int], start: int) -> None:
    """Put consecutive tokens of sequence 0 into a batch, all with logits."""
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i] = token
        batch.pos[i] = start + i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = 1


def decode(ctx: Any, tokens: list[int], start: int, vocab: int) -> np.ndarray:  # type: ignore[type-arg]
    """Evaluate tokens at positions start.. and return their logits, (tokens, vocab) float32."""
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        fill(batch, tokens, start)
        assert llama_cpp.llama_decode(ctx, batch) == 0
        rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(ctx, i), (vocab,)) for i in range(len(tokens))]
        return np.stack(rows)
    finally:
        llama_cpp.llama_batch_free(batch)


def logits(gguf: Path, tokens: list[int], n_ubatch: int = 512, prompt: int | None = None) -> np.ndarray:  # type: ignore[type-arg]
    """Logits of every position, (tokens, vocab) float32: in one batch, or `prompt` tokens and then one by one."""
    with loaded(gguf) as model, context(model, len(tokens), n_ubatch) as ctx:
        vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        first = len(tokens) if prompt is None else prompt
        rows = [decode(ctx, tokens[:first], 0, vocab)]
        rows += [decode(ctx, [token], first + i, vocab) for i, token in enumerate(tokens[first:])]
        return np.concatenate(rows)


def tokenize(gguf: Path, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, special tokens parsed."""
    result = []
    with loaded(gguf, vocab_only=True) as model:
        vocab = llama_cpp.llama_model_get_vocab(model)
        for text in texts:
            raw = text.encode()
            buffer = (llama_cpp.llama_token * (len(raw) + 8))()
            count = llama_cpp.llama_tokenize(vocab, raw, len(raw), buffer, len(buffer), False, True)
            assert count >= 0
            result.append(list(buffer[:count]))
    return result


def mean_kl(reference: np.ndarray, other: np.ndarray) -> float:  # type: ignore[type-arg]
    """Mean over positions of KL(reference || other), from logits, in float64."""
    p, q = (x.astype(np.float64) for x in (reference, other))
    p -= np.log(np.exp(p - p.max(-1, keepdims=True)).sum(-1, keepdims=True)) + p.max(-1, keepdims=True)
    q -= np.log(np.exp(q - q.max(-1, keepdims=True)).sum(-1, keepdims=True)) + q.max(-1, keepdims=True)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def draft_logits(gguf: Path, tokens: list[int], **options: Any) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Hidden states after the main model's final norm (n, hidden), and the MTP head's logits (n - 1, vocab)."""
    from llama_cpp import llama_cpp_ext as ext

    with loaded(gguf, load_mtp=True, **options) as model, context(model, len(tokens)) as ctx:
        vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        width = llama_cpp.llama_model_n_embd(model)
        ext.llama_set_embeddings_nextn(ctx, True, False)
        decode(ctx, tokens, 0, vocab)
        hidden = np.ctypeslib.as_array(ext.llama_get_embeddings_nextn(ctx), (len(tokens), width)).copy()
        mtp = llama_cpp.LLAMA_CONTEXT_TYPE_MTP
        with context(model, len(tokens), ctx_type=mtp, ctx_other=ctx) as drafter:
            count = len(tokens) - 1
            batch = llama_cpp.llama_batch_init(count, 0, 1)
            embeddings = np.ascontiguousarray(hidden[:-1])
            try:
                fill(batch, tokens[1:], 1)
                batch.embd = embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
                assert llama_cpp.llama_decode(drafter, batch) == 0
                rows = [
                    np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(drafter, i), (vocab,)) for i in range(count)
                ]
                return hidden, np.stack(rows)
            finally:
                batch.embd = None  # numpy's memory, not llama.cpp's to free
                llama_cpp.llama_batch_free(batch)
