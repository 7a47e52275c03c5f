"""The short causal convolution in front of the gated delta rule, with its SiLU.

Source: the conv1d of Qwen3.5's linear attention (transformers, models/qwen3_5); layouts as in ggml_ssm_conv (ggml.h).
"""

from __future__ import annotations

import os

import numpy as np

from qwen35_gguf.ggml_ops import _native
from qwen35_gguf.ggml_ops.arguments import Array, check_array, empty
from qwen35_gguf.ggml_ops.target import target

MOST_TAPS = 8


def causal_conv1d_silu(x: Array, weight: Array, state: Array | None = None, *, threads: int = 0) -> tuple[Array, Array]:
    """Convolve each channel with its own taps along the tokens, and apply SiLU.

    Args:
        x: (tokens, channels). All arrays are float32 and C-contiguous.
        weight: (channels, taps), 2 to 8 taps; the last one is for the token itself.
        state: (channels, taps - 1), the inputs before the first token, oldest first; zeros if None. It is not changed.
        threads: at most; 0 for one a core. Little work takes fewer.

    Returns:
        out: (tokens, channels).
        state: (channels, taps - 1), the last inputs.

    Raises:
        ValueError: an argument whose shape, dtype or layout does not fit; it is named.

    """
    check_array("x", x, ("tokens", "channels"))
    channels = x.shape[1]
    check_array("weight", weight, (channels, "taps"))
    taps = weight.shape[1]
    if not 2 <= taps <= MOST_TAPS:
        raise ValueError(f"weight: expected 2 to {MOST_TAPS} taps, got {taps}")
    if state is None:
        state = np.zeros((channels, taps - 1), np.float32)
    check_array("state", state, (channels, taps - 1))
    if threads < 0:
        raise ValueError(f"threads: expected 0 or more, got {threads}")
    out, new_state = empty(x.shape), empty(state.shape)
    _native.causal_conv1d_silu(x, weight, state, out, new_state, threads or os.cpu_count() or 1, target())
    return out, new_state
