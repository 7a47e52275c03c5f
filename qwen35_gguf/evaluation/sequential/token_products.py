"""What a layer does to each token alone, computed from weights and rows: its norms and its feed-forward network.

Source: llama.cpp src/models/qwen35.cpp (build_norm, build_layer_ffn).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import map_data, tensor_data
from qwen35_gguf.runtime.model_files import require_tensor

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Norm:
    """An RMS norm: its weights, (hidden,), and what is added to the mean square."""

    scale: Float
    epsilon: np.float32

    def __call__(self, rows: Float) -> Float:
        """Return rows, (tokens, hidden), after the norm."""
        mean = np.einsum("ij,ij->i", rows, rows)[:, None] / np.float32(rows.shape[1])
        found: Float = rows * (1 / np.sqrt(mean + self.epsilon)) * self.scale
        return found


def read_norm(header: GgufHeader, name: str) -> Norm:
    """Read an RMS norm of a model.

    Raises:
        ModelError: it is not there.

    """
    scale = tensor_data(header, require_tensor(header, name), map_data(header)).view(np.float32).reshape(-1)
    epsilon = float(header.value(f"{header.architecture}.attention.layer_norm_rms_epsilon", 1e-6))
    return Norm(scale, np.float32(epsilon))


def gated(rows: Float, gate: Float, up: Float) -> Float:
    """Return SiLU(rows gateT) * (rows upT), (tokens, feed-forward): what the matrix `ffn_down` is given.

    Args:
        rows: (tokens, hidden).
        gate: (feed-forward, hidden).
        up: the same shape.

    """
    found: Float = rows @ gate.T
    divisors = np.negative(found)
    with np.errstate(over="ignore"):  # exp(-x) of an x far below zero: the quotient is zero
        np.exp(divisors, out=divisors)
    divisors += 1
    found /= divisors
    found *= rows @ up.T
    return found
