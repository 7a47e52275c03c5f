"""Which GGUF type each tensor gets (recipes) and how it is packed (kernels)."""

from qwen35_gguf.quant.kernels import quantize

__all__ = ["quantize"]
