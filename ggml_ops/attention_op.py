"""Attention over a KV cache, with the softmax computed online.

Sources: Milakov and Gimelshein, Online normalizer calculation for softmax, arXiv:1805.02867; Dao, Fu, Ermon, Rudra and
Ré, FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, arXiv:2205.14135. The meaning is that
of ggml_flash_attn_ext (ggml.h).
"""

from __future__ import annotations

import math
import os
from typing import Literal

import ml_dtypes
import numpy as np

from qwen35_gguf.ggml_ops import _native
from qwen35_gguf.ggml_ops.arguments import Array, check_array, empty
from qwen35_gguf.ggml_ops.target import attention_target, target

KVType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]

BLOCK = 32  # values of a quantized cache that share a scale


def cache_bytes(x: Array, kv_type: KVType) -> Array:
    """Store keys or values as a cache of a type does.

    Args:
        x: (positions, heads, D) float32.
        kv_type: of the cache; D must be a multiple of 32 for q8_0 and q4_0.

    Returns:
        (positions, heads, bytes of a row) uint8.

    """
    if kv_type in ("q8_0", "q4_0"):
        blocks = np.zeros((math.prod(x.shape[:2]), x.shape[2] // BLOCK * (34 if kv_type == "q8_0" else 18)), np.uint8)
        rows = np.ascontiguousarray(x.reshape(len(blocks), -1)).view(np.uint32)
        _native.quantize(rows, "f32", kv_type.upper(), None, blocks, 1, target())
        return blocks.reshape(*x.shape[:2], -1)
    dtype = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[kv_type]
    return np.ascontiguousarray(x.astype(dtype)).view(np.uint8)


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    *,
    kv_type: KVType | tuple[KVType, KVType] = "f16",
    scale: float | None = None,
    softcap: float = 0.0,
    slopes: Array | None = None,
    sinks: Array | None = None,
    threads: int = 0,
) -> Array:
    """Weigh the values of a cache by the softmax of their scores.

    Per query head h and token t, with the cache head g = h // (query heads / cache heads):
    s_j = scale q[t, h] . k[j, g] + slopes[h] mask[t, j]; out[t, h] = sum_j softmax(s)_j v[j, g].

    Args:
        q: (tokens, query heads, D) float32, C-contiguous as all arrays.
        k: (positions, cache heads, D) float32 keys; they are stored as `kv_type` first.
        v: (positions, cache heads, DV) float32 values.
        mask: (tokens, positions) float16, added to the scores; -inf hides a position; None: all are visible.
        kv_type: of the cache: f32, f16, bf16, q8_0, q4_0, or a pair of them, for keys and values.
        scale: of the scores; None for 1 / sqrt(D).
        softcap: 0, or a limit: the score becomes softcap tanh(score / softcap) before the mask.
        slopes: (query heads,) float32 factors of the mask (ALiBi); None for 1.
        sinks: (query heads,) float32 scores without a value, which take a share of the softmax; None: none.
        threads: the maximum; 0 for one per core. The result depends on their number only by rounding.

    Returns:
        (tokens, query heads, DV) float32; zeros for a token that sees no position. Keys, values and weights are
        multiplied as floats or as integers of 13 to 16 bits with a scale for each row: errors are those of FP16.

    Raises:
        ValueError: an argument has the wrong shape, dtype or layout; the message names it.

    """
    check_array("q", q, ("tokens", "query heads", "D"))
    tokens, heads, size = q.shape
    check_array("k", k, ("positions", "cache heads", size))
    check_array("v", v, (*k.shape[:2], "DV"))
    if heads % k.shape[1]:
        raise ValueError(f"k: expected a number of cache heads that divides the {heads} query heads, got {k.shape[1]}")
    types = (kv_type, kv_type) if isinstance(kv_type, str) else kv_type
    for name, array, type_ in (("k", k, types[0]), ("v", v, types[1])):
        if type_ not in ("f32", "f16", "bf16", "q8_0", "q4_0"):
            raise ValueError(f"kv_type: expected f32, f16, bf16, q8_0 or q4_0, got {type_}")
        if type_ in ("q8_0", "q4_0") and array.shape[2] % BLOCK:
            raise ValueError(f"{name}: expected a size that is a multiple of 32 for {type_}, got {array.shape[2]}")
    if mask is not None:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.float16 or mask.shape != (tokens, len(k)):
            raise ValueError(f"mask: expected a float16 array ({tokens}, {len(k)})")
        mask = np.ascontiguousarray(mask).view(np.uint16)
    for name, optional in (("slopes", slopes), ("sinks", sinks)):
        if optional is not None:
            check_array(name, optional, (heads,))
    if threads < 0:
        raise ValueError(f"threads: expected 0 or more, got {threads}")
    scale = 1 / math.sqrt(size) if scale is None else scale
    out = empty((tokens, heads, v.shape[2]))
    _native.attention(
        q,
        cache_bytes(k, types[0]),
        types[0],
        cache_bytes(v, types[1]),
        types[1],
        mask,
        slopes,
        sinks,
        scale,
        softcap,
        out,
        threads or os.cpu_count() or 1,
        attention_target(),
    )
    return out
