"""Which ggml type each tensor gets (presets, recipes) and how rows are quantized (kernels)."""

from qwen35_gguf.quant.kernels import dequantize, quantize

__all__ = ["dequantize", "quantize"]
