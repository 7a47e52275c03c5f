"""The short causal convolution before the gated delta rule, with its SiLU.

Source: the conv1d of Qwen3.5's linear attention (transformers, models/qwen3_5); layouts as in ggml_ssm_conv (ggml.h).
"""

from __future__ import annotations

import os

import numpy as np

from qwen35_gguf.ggml_ops import _native
from qwen35_gguf.ggml_ops.arguments import Array, check_array, empty
from qwen35_gguf.ggml_ops.target import target

MAX_KERNEL_SIZE = 8


def causal_conv1d_silu(x: Array, weight: Array, state: Array | None = None, *, threads: int = 0) -> tuple[Array, Array]:
    """Convolve each channel with its own kernel along the tokens (depthwise), and apply SiLU.

    Args:
        x: (tokens, channels). All arrays are float32 and C-contiguous.
        weight: (channels, kernel size), kernel size 2 to 8; the last column is for the token itself.
        state: (channels, kernel size - 1), the inputs before the first token, oldest first; zeros if None. Unchanged.
        threads: the maximum; 0 for one per core. Small inputs use fewer.

    Returns:
        out: (tokens, channels).
        state: (channels, kernel size - 1), the last inputs.

    Raises:
        ValueError: an argument has the wrong shape, dtype or layout; the message names it.

    """
    check_array("x", x, ("tokens", "channels"))
    channels = x.shape[1]
    check_array("weight", weight, (channels, "kernel size"))
    size = weight.shape[1]
    if not 2 <= size <= MAX_KERNEL_SIZE:
        raise ValueError(f"weight: expected a kernel size of 2 to {MAX_KERNEL_SIZE}, got {size}")
    if state is None:
        state = np.zeros((channels, size - 1), np.float32)
    check_array("state", state, (channels, size - 1))
    if threads < 0:
        raise ValueError(f"threads: expected 0 or more, got {threads}")
    out, new_state = empty(x.shape), empty(state.shape)
    _native.causal_conv1d_silu(x, weight, state, out, new_state, threads or os.cpu_count() or 1, target())
    return out, new_state
