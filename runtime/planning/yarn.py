"""Contexts beyond the native one: when YaRN is on, and what it costs."""

from __future__ import annotations

from qwen35_gguf.errors import ContextError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.runtime.context_spec import Yarn
from qwen35_gguf.runtime.planning.memory import LONGEST_CONTEXT, architecture_of, kv_cache_bytes
from qwen35_gguf.units import format_size


def native_context(header: GgufHeader) -> int:
    """Return the length that the model was trained for."""
    original = header.hparam("rope.scaling.original_context_length", 0)
    return int(original) or architecture_of(header).context_length


def yarn_for(header: GgufHeader, n_ctx: int) -> Yarn | None:
    """Return the RoPE scaling for a context: YaRN with the least factor beyond the native one, None up to it.

    It applies to each of the three positions of M-RoPE alike. A file that has YaRN in its metadata needs nothing up to
    the length that it states.

    Raises:
        ContextError: `n_ctx` is below 1 or above 1,048,576.

    """
    if not 1 <= n_ctx <= LONGEST_CONTEXT:
        raise ContextError(f"n_ctx {n_ctx:,}: must be between 1 and {LONGEST_CONTEXT:,}")
    native = native_context(header)
    if n_ctx <= max(native, architecture_of(header).context_length):
        return None
    return Yarn(freq_scale=native / n_ctx, native_ctx=native)


def yarn_note(header: GgufHeader, n_ctx: int, kv_type: str = "f16") -> str | None:
    """Describe in one line what a context beyond the native one costs; None if it is not beyond."""
    if yarn_for(header, n_ctx) is None:
        return None
    model, native = architecture_of(header), native_context(header)
    return (
        f"n_ctx {n_ctx:,} is {n_ctx / native:.2g} times the native {native:,}: YaRN is on for short prompts too, which "
        f"costs some accuracy, and the KV cache takes {format_size(kv_cache_bytes(model, n_ctx, kv_type))} instead of "
        f"at most {format_size(kv_cache_bytes(model, native, kv_type))}"
    )
