"""Which instruction set the native kernels use."""

from __future__ import annotations

import os

from qwen35_gguf.errors import UnknownTargetError
from qwen35_gguf.ggml_ops import _native

# As simd/cpu.cpp has them.
LEAST_FIRST = ("portable", "neon", "avx2", "avxvnni", "avx512", "avx512vnni")


def targets() -> list[str]:
    """Name the instruction sets that this processor has, best first; the last one is portable code."""
    return _native.targets()


def product_target() -> str | None:
    """Name the instruction set that a patched llama.cpp multiplies quantized weights with; None: as ggml does."""
    limit = os.environ.get("QWEN35_CPU") or LEAST_FIRST[-1]
    place = LEAST_FIRST.index(limit) if limit in LEAST_FIRST else len(LEAST_FIRST)
    return next((name for name in _native.mul_mat_targets() if LEAST_FIRST.index(name) <= place), None)


def target() -> str:
    """Name the instruction set in use: the best one, or what the environment variable QWEN35_CPU allows.

    QWEN35_CPU may name one that only the products of quantized weights use (avx512vnni, avxvnni): the best of the
    others that does not ask for more counts then.
    """
    wanted = os.environ.get("QWEN35_CPU", "")
    if not wanted:
        return targets()[0]
    known = sorted({*targets(), *_native.mul_mat_targets()}, key=LEAST_FIRST.index, reverse=True)
    if wanted not in known:
        raise UnknownTargetError(f"QWEN35_CPU={wanted}: this processor has {', '.join(known)}; choose one of them")
    return next(name for name in targets() if LEAST_FIRST.index(name) <= LEAST_FIRST.index(wanted))
