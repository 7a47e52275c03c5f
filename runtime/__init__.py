"""The runtime for Qwen3.5, over llama-cpp-python.

`from qwen35_gguf.runtime import Qwen35`; llama.cpp is not loaded before a name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen35_gguf.runtime.async_model import AsyncQwen35
    from qwen35_gguf.runtime.model import Qwen35

__all__ = ["AsyncQwen35", "Qwen35"]


if not TYPE_CHECKING:  # else every name would have a type

    def __getattr__(name: str) -> Any:
        if name == "Qwen35":
            from qwen35_gguf.runtime.model import Qwen35

            return Qwen35
        if name == "AsyncQwen35":
            from qwen35_gguf.runtime.async_model import AsyncQwen35

            return AsyncQwen35
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
