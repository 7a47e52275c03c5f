"""A thin runtime over llama-cpp-python for Qwen3.5.

`from qwen35_gguf.runtime import Qwen35`; nothing of llama.cpp is loaded before that name is looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen35_gguf.runtime.model import Qwen35

__all__ = ["Qwen35"]


if not TYPE_CHECKING:  # else every name would have a type

    def __getattr__(name: str) -> Any:
        if name == "Qwen35":
            from qwen35_gguf.runtime.model import Qwen35

            return Qwen35
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
