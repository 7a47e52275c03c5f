"""Which instruction set the native kernels use."""

from __future__ import annotations

import os

from qwen35_gguf.errors import UnknownTargetError
from qwen35_gguf.ggml_ops import _native


def targets() -> list[str]:
    """Name the instruction sets that this processor has, best first; the last one is portable code."""
    return _native.targets()


def target() -> str:
    """Name the instruction set in use: the best one, or what the environment variable QWEN35_CPU asks for."""
    wanted = os.environ.get("QWEN35_CPU", "")
    if wanted and wanted not in targets():
        raise UnknownTargetError(f"QWEN35_CPU={wanted}: this processor has {', '.join(targets())}; choose one of them")
    return wanted or targets()[0]
