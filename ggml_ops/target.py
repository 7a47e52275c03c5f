"""The instruction set that the native kernels use (a "target")."""

from __future__ import annotations

import os

from qwen35_gguf.errors import UnknownTargetError
from qwen35_gguf.ggml_ops import _native

# The order of simd/cpu.cpp.
LEAST_FIRST = (
    "portable",
    "neon",
    "neondot",
    "i8mm",
    "avx2",
    "avxvnni",
    "avx512",
    "avx512vnni",
    "avx512vbmi",
    "avx512bf16",
)


def targets() -> list[str]:
    """Return the names of the targets that this processor supports, best first; the last one is portable code."""
    return _native.targets()


def matmul_target() -> str | None:
    """Return the target that a patched llama.cpp uses for matmuls of quantized weights; None: ggml's own kernels."""
    limit = os.environ.get("QWEN35_CPU") or LEAST_FIRST[-1]
    place = LEAST_FIRST.index(limit) if limit in LEAST_FIRST else len(LEAST_FIRST)
    return next((name for name in _native.mul_mat_targets() if LEAST_FIRST.index(name) <= place), None)


def attention_target() -> str:
    """Return the target of attention; raise UnknownTargetError as target() does."""
    limit = os.environ.get("QWEN35_CPU") or LEAST_FIRST[-1]
    target()
    return next(name for name in _native.attention_targets() if LEAST_FIRST.index(name) <= LEAST_FIRST.index(limit))


product_target = matmul_target  # the name up to 0.1


def target() -> str:
    """Return the target in use: the best one, or the one that the environment variable QWEN35_CPU names.

    QWEN35_CPU may name a target that only matmuls of quantized weights have (avx512vbmi, avx512vnni, avxvnni, i8mm,
    neondot); the other kernels then use the best target below it. Raises UnknownTargetError if this processor does not
    support it.
    """
    wanted = os.environ.get("QWEN35_CPU", "")
    if not wanted:
        return targets()[0]
    known = sorted({*targets(), *_native.mul_mat_targets()}, key=LEAST_FIRST.index, reverse=True)
    if wanted not in known:
        raise UnknownTargetError(
            f"QWEN35_CPU={wanted}: not a target of this processor; choose one of {', '.join(known)}"
        )
    return next(name for name in targets() if LEAST_FIRST.index(name) <= LEAST_FIRST.index(wanted))
