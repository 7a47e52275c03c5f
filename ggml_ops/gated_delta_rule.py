"""The gated delta rule, the recurrence of Qwen3.5's linear attention layers.

Source: Yang, Kautz, Hatamizadeh, Gated Delta Networks: Improving Mamba2 with Delta Rule, arXiv:2412.06464. The layouts
are those of ggml_gated_delta_net (ggml.h).
"""

from __future__ import annotations

import os

import numpy as np

from qwen35_gguf.ggml_ops import _native
from qwen35_gguf.ggml_ops.arguments import Array, check_array, empty
from qwen35_gguf.ggml_ops.target import target


def gated_delta_rule(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    beta: Array,
    state: Array | None = None,
    *,
    snapshots: int = 1,
    threads: int = 0,
) -> tuple[Array, Array]:
    """Run the recurrence over tokens, for each value head with its own state S (value rows x key columns).

    Per token: S = exp(g) S; d = beta (v - S k); S = S + d k^T; out = S q / sqrt(D).

    Args:
        q: (tokens, K heads, D) queries, L2-normalized. All arrays are float32 and C-contiguous.
        k: (tokens, K heads, D) keys, L2-normalized.
        v: (tokens, V heads, D) values; V head h reads K head h mod K heads.
        g: (tokens, V heads) logarithms of the decay, or (tokens, V heads, D): one for each key column.
        beta: (tokens, V heads) strength of the update.
        state: (V heads, D value rows, D key columns) before the first token; zeros if None. Unchanged.
        snapshots: the number of last states to return; more than 1 adds a leading dimension.
        threads: the maximum; 0 for one per core. They share heads and groups of value rows; small inputs use fewer.

    Returns:
        out: (tokens, V heads, D).
        state: (V heads, D, D) after the last token; with snapshots > 1 (snapshots, V heads, D, D), the newest first,
        and zeros for states before the first token.

    Raises:
        ValueError: an argument has the wrong shape, dtype or layout; the message names it.

    """
    check_array("v", v, ("tokens", "V heads", "D"))
    tokens, heads, size = v.shape
    check_array("k", k, (tokens, "K heads", size))
    if heads % k.shape[1]:
        raise ValueError(f"k: expected a number of K heads that divides the {heads} V heads, got {k.shape[1]}")
    check_array("q", q, k.shape)
    per_column = isinstance(g, np.ndarray) and g.ndim == 3
    check_array("g", g, (tokens, heads, size) if per_column else (tokens, heads))
    check_array("beta", beta, (tokens, heads))
    if state is None:
        state = np.zeros((heads, size, size), np.float32)
    check_array("state", state, (heads, size, size))
    if snapshots < 1:
        raise ValueError(f"snapshots: expected 1 or more, got {snapshots}")
    if threads < 0:
        raise ValueError(f"threads: expected 0 or more, got {threads}")
    out = empty(v.shape)
    states = empty((snapshots, heads, size, size))
    states[tokens:] = 0
    gates = g if per_column else g[:, :, None]
    _native.gated_delta_rule(
        q, k, v, np.ascontiguousarray(gates), beta, state, out, states, threads or os.cpu_count() or 1, target()
    )
    return out, states if snapshots > 1 else states[0]
