"""References for the gated delta rule, in float64: transformers' two implementations."""

from __future__ import annotations

import inspect
import types
from typing import Any

import numpy as np
import torch
from transformers.models.qwen3_5 import modeling_qwen3_5

Array = np.ndarray[Any, Any]


def transformers_recurrent(**case: Array) -> tuple[Array, Array]:
    """Run torch_recurrent_gated_delta_rule."""
    return _run(modeling_qwen3_5.torch_recurrent_gated_delta_rule, **case)


def transformers_chunked(**case: Array) -> tuple[Array, Array]:
    """Run torch_chunk_gated_delta_rule."""
    return _run(modeling_qwen3_5.torch_chunk_gated_delta_rule, **case)


class _Float64Torch:
    """torch whose float32 is float64: both functions convert what they are given to torch.float32."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _in_float64(rule: Any) -> Any:
    plain = inspect.unwrap(rule)
    names = {**plain.__globals__, "torch": _Float64Torch()}
    return types.FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__, plain.__closure__)


def _run(rule: Any, q: Array, k: Array, v: Array, g: Array, beta: Array, state: Array) -> tuple[Array, Array]:
    shared = np.arange(v.shape[1]) % k.shape[1]

    def batch(array: Array) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array, np.float64))[None]

    out, last = _in_float64(rule)(
        batch(q[:, shared]),
        batch(k[:, shared]),
        batch(v),
        g=batch(g),
        beta=batch(beta),
        initial_state=batch(state.transpose(0, 2, 1)),  # its rows are key columns
        output_final_state=True,
    )
    assert out.dtype == last.dtype == torch.float64
    return out[0].numpy(), last[0].numpy().transpose(0, 2, 1)
