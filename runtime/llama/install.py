"""What is installed to run models with; see `qwen35_gguf.llama_package`."""

from __future__ import annotations

from qwen35_gguf.llama_package import Installed, installed_runtime

__all__ = ["STOCK_NOTE", "Installed", "installed_runtime"]

STOCK_NOTE = (
    "note: this llama-cpp-python is stock: DeltaNet layers run several times slower, and their state is copied for "
    "every token; `qwen35 setup` installs a patched one"
)
