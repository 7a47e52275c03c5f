"""The gated delta rule and its convolution by definition, in float64: the readable twins of ggml_ops/delta_net."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def gated_delta_rule(
    q: Array, k: Array, v: Array, g: Array, beta: Array, state: Array | None = None, *, snapshots: int = 1
) -> tuple[Array, Array]:
    """Run the recurrence token by token; arguments and results as in ggml_ops.gated_delta_rule, but float64.

    Per token and value head: S = exp(g) S; d = beta (v - S k); S = S + d k^T; out = S q / sqrt(D).
    Source: Yang, Kautz, Hatamizadeh, arXiv:2412.06464, equation 10.
    """
    tokens, heads, size = v.shape
    q, k, v, g, beta = (np.asarray(array, np.float64) for array in (q, k, v, g, beta))
    s = np.zeros((heads, size, size)) if state is None else np.asarray(state, np.float64)
    key_head = np.arange(heads) % k.shape[1]
    decay = np.exp(g if g.ndim == 3 else g[:, :, None])
    out = np.empty_like(v)
    states = np.zeros((snapshots, heads, size, size))
    for t in range(tokens):
        key, query = k[t, key_head], q[t, key_head]
        s = s * decay[t][:, None, :]
        d = beta[t][:, None] * (v[t] - np.einsum("hij,hj->hi", s, key))
        s = s + d[:, :, None] * key[:, None, :]
        out[t] = np.einsum("hij,hj->hi", s, query) / np.sqrt(size)
        age = tokens - 1 - t
        if age < snapshots:
            states[age] = s
    return out, states if snapshots > 1 else states[0]


def causal_conv1d_silu(x: Array, weight: Array, state: Array | None = None) -> tuple[Array, Array]:
    """Convolve each channel with its kernel and apply SiLU; as ggml_ops.causal_conv1d_silu, but in float64."""
    tokens, channels = x.shape
    size = weight.shape[1]
    past = np.zeros((channels, size - 1)) if state is None else np.asarray(state, np.float64)
    inputs = np.concatenate([past.T, np.asarray(x, np.float64)])
    total = sum(inputs[j : j + tokens] * weight[:, j].astype(np.float64) for j in range(size))
    with np.errstate(over="ignore"):  # exp(-total) may be infinite: then SiLU is zero
        return total / (1 + np.exp(-total)), inputs[tokens:].T.copy()
