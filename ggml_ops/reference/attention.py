"""Attention by definition, in float64: the readable twin of ggml_ops/attention."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    slopes: Array | None = None,
    sinks: Array | None = None,
) -> Array:
    """Weigh values by the softmax of their scores; arguments as in ggml_ops.attention, but float64 and not quantized.

    Per query head h and token t, with the cache head g = h // (query heads / cache heads):
    s_j = scale q[t, h] . k[j, g]; s_j = softcap tanh(s_j / softcap); s_j += slopes[h] mask[t, j];
    out[t, h] = sum_j exp(s_j) v[j, g] / (exp(sinks[h]) + sum_j exp(s_j)), or zero where the mask hides every position.
    """
    _, heads, size = q.shape
    group = heads // k.shape[1]
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    keys, values = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("thd,jhd->htj", q, keys) * (1 / np.sqrt(size) if scale is None else scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if mask is not None:
        factors = np.ones(heads) if slopes is None else np.asarray(slopes, np.float64)
        scores = scores + factors[:, None, None] * np.asarray(mask, np.float64)
    sink = np.full((heads, 1, 1), -np.inf) if sinks is None else np.asarray(sinks, np.float64)[:, None, None]
    largest = np.maximum(scores.max(axis=2, keepdims=True), sink)
    largest = np.where(np.isinf(largest), 0.0, largest)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=2, keepdims=True) + np.exp(sink - largest)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    result: Array = np.einsum("htj,jhd->thd", weights, values)
    return result
