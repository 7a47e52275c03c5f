"""Choose the type of the KV cache: the one that is read fastest among those whose cost in predictions is small."""

from __future__ import annotations

from dataclasses import replace

from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.runtime.context_spec import AUTO_KV_TYPE, MemoryRequest
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.planning.placement_units import units_of

DEFAULT = "f16"

# What a type adds to the mean KL divergence of F16 from attention without rounding, in nats: the largest figure that
# `bench/depth/kv_quality.py` finds on two trained models behind 2,048 to 32,768 tokens (docs/performance.md), and on
# random weights of the 0.8B's shape (8 layers) behind 8,192. llama.cpp rotates quantized caches.
DIVERGENCE = {"f16": 0.0, "q8_0": 9e-5, "q4_0": 8.4e-4}

BOUND = 1e-4  # nats
WORTH = 0.03  # of the bytes that a token reads; below it the default stays


def kv_types_within(bound: float = BOUND) -> tuple[str, ...]:
    """Return the types that add at most `bound` nats of mean KL divergence, from F16 on to smaller ones."""
    return tuple(name for name, divergence in DIVERGENCE.items() if divergence <= bound)


def attention_kernels() -> bool:
    """Report whether the installed llama.cpp reads quantized caches with the kernels of ggml_ops/attention."""
    installed = installed_runtime()
    patches = installed.patches if installed else ()
    return any("attention" in name for name in patches)


def fastest_kv_type(header: GgufHeader, request: MemoryRequest, *, kernels: bool, bound: float = BOUND) -> str:
    """Return the type of the cache with which a token reads the fewest bytes, within a bound.

    Decoding is limited by memory: its time follows the bytes of the weights and of the cache that a token reads.

    Args:
        header: of the model.
        request: context length, sequences, MTP head; its KV type does not matter.
        kernels: whether quantized caches are read as fast as their bytes allow (`attention_kernels`). Otherwise, and on
            other devices, F16 is fastest: llama.cpp's own loop takes five times as long for a prompt with Q8_0.
        bound: nats of mean KL divergence that are accepted.

    """
    if not kernels:
        return DEFAULT

    def bytes_per_token(kv_type: str) -> int:
        of_type = replace(request, context=replace(request.context, kv_type=kv_type))
        return sum(unit.bytes_per_token for unit in units_of(header, of_type).units)

    best = min(kv_types_within(bound), key=bytes_per_token, default=DEFAULT)
    return best if bytes_per_token(best) < (1 - WORTH) * bytes_per_token(DEFAULT) else DEFAULT


def with_kv_type(header: GgufHeader, request: MemoryRequest, *, on_cpu: bool) -> MemoryRequest:
    """Return the request with the type decided, if it is "auto"; on other devices than the CPU it stays F16."""
    if request.context.kv_type != AUTO_KV_TYPE:
        return request
    chosen = fastest_kv_type(header, request, kernels=on_cpu and attention_kernels())
    return replace(request, context=replace(request.context, kv_type=chosen))
