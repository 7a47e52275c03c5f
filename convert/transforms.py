"""The operations that the tensor map names. Each is pure and has an inverse: `invert(apply(x)) == x`.

The permutations and the padding are exact in any dtype. The two arithmetic ones compute in F32 as llama.cpp's converter
does, so that their inverses return the source to within the rounding of F32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qwen35_gguf.architecture import Architecture

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]

Q8_0_BLOCK = 32


class Operation(NamedTuple):
    """A named, invertible step from a source tensor to its GGUF tensor.

    `axis` is the one whose entries it reorders, None if it does something else. What reorders rows (0) does so to the
    left factor of a matmul, what reorders columns (1) to the right one. `padding` is the part of the result that the
    inverse drops: zeros, None if it drops nothing.
    """

    name: str
    apply: Callable[[Array], Array]
    invert: Callable[[Array], Array]
    shape: Callable[[Shape], Shape] = lambda shape: shape
    axis: int | None = None
    padding: Callable[[Array], Array] | None = None


def _add_one(x: Array) -> Array:
    y: Array = x.astype(np.float32) + np.float32(1)
    return y


def _subtract_one(y: Array) -> Array:
    x: Array = y - np.float32(1)
    return x


def _negative_exponential(x: Array) -> Array:
    # Through F64, so that the F32 result is correctly rounded on every CPU; float32 exp differs between libraries.
    y: Array = -np.exp(x.astype(np.float64)).astype(np.float32)
    return y


def _log_of_negative(y: Array) -> Array:
    x: Array = np.log(-y)
    return x


# Qwen3.5 stores w and computes x * (1 + w); llama.cpp's RMSNorm multiplies by what is stored.
plus_one = Operation("plus_one", _add_one, _subtract_one)

# The decay is exp(-exp(A_log) * dt); llama.cpp stores the factor -exp(A_log) as ssm_a.
neg_exp = Operation("neg_exp", _negative_exponential, _log_of_negative)

# A depthwise convolution weight (channels, 1, kernel) is a matrix (channels, kernel) in ggml.
squeeze = Operation(
    "squeeze",
    apply=lambda x: x[:, 0, :],
    invert=lambda y: y[:, None, :],
    shape=lambda shape: (shape[0], shape[2]),
)


def tile_value_heads(axis: int, key_heads: int, per_key: int, head_dim: int, offset: int = 0) -> Operation:
    """Reorder value heads from grouped by key head to tiled: [k0v0 k0v1 k1v0 k1v1] -> [k0v0 k1v0 k0v1 k1v1].

    ggml broadcasts key head h to value heads h, h + key_heads, ...; transformers repeats each key head in place.
    `offset` entries of `axis` come before the value heads (the query and key rows) and stay.
    """

    def permute(x: Array, first: int, second: int) -> Array:
        before, heads = np.split(x, [offset], axis=axis)
        split = (*x.shape[:axis], first, second, head_dim, *x.shape[axis + 1 :])
        moved = np.swapaxes(heads.reshape(split), axis, axis + 1).reshape(heads.shape)
        return np.concatenate([before, moved], axis=axis) if offset else moved

    return Operation(
        "tile_value_heads" + (f"(columns, {head_dim})" if axis else f"(rows from {offset}, {head_dim})"),
        apply=lambda x: permute(x, key_heads, per_key),
        invert=lambda y: permute(y, per_key, key_heads),
        axis=axis,
    )


def padded_width(width: int) -> int:
    """Return the width to which a feed-forward network of a vision encoder is padded: whole blocks of Q8_0."""
    return -(-width // Q8_0_BLOCK) * Q8_0_BLOCK


def pad(axis: int, size: int, padded: int) -> Operation:
    """Append zeros to the `size` entries of `axis` until there are `padded`.

    A neuron whose weights and bias are zero is gelu(0) = 0, and meets a column of zeros: the network stays the same.
    """

    def apply(x: Array) -> Array:
        zeros = np.zeros((*x.shape[:axis], padded - size, *x.shape[axis + 1 :]), x.dtype)
        return np.concatenate([x, zeros], axis=axis)

    def split(y: Array) -> tuple[Array, Array]:
        kept, zeros = np.split(y, [size], axis=axis)
        return kept, zeros

    return Operation(
        "pad_" + ("columns" if axis else "rows"),
        apply,
        invert=lambda y: split(y)[0],
        shape=lambda shape: (*shape[:axis], padded, *shape[axis + 1 :]),
        padding=lambda y: split(y)[1],
    )


def vision_operation_table(width: int, padded: int | None = None) -> dict[str, tuple[Operation, ...]]:
    """Bind the operation names of a vision encoder, whose feed-forward networks of `width` may be `padded`."""
    if padded is None or padded == width:
        return {"pad_rows": (), "pad_columns": ()}
    return {"pad_rows": (pad(0, width, padded),), "pad_columns": (pad(1, width, padded),)}


def operation_table(architecture: Architecture, *, norms_shifted: bool = False) -> dict[str, tuple[Operation, ...]]:
    """Bind the operation names of the tensor map to one model's heads; what is the identity binds to nothing.

    `norms_shifted`: the RMSNorm weights of the checkpoint have the +1 applied already.
    """
    key_heads, per_key = architecture.linear_key_heads, architecture.value_heads_per_key_head
    v_dim, queries_and_keys = architecture.linear_value_head_dim, 2 * architecture.linear_key_size

    def tile(axis: int, head_dim: int, offset: int = 0) -> tuple[Operation, ...]:
        if per_key == 1 or key_heads == 1:
            return ()
        return (tile_value_heads(axis, key_heads, per_key, head_dim, offset),)

    return {
        "plus_one": () if norms_shifted else (plus_one,),
        "neg_exp": (neg_exp,),
        "squeeze": (squeeze,),
        "v_heads": tile(0, 1),
        "v_rows": tile(0, v_dim),
        "v_after_qk": tile(0, v_dim, queries_and_keys),
        "v_columns": tile(1, v_dim),
    }
