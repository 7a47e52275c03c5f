"""Qwen3.5 from a Hugging Face checkpoint to a fast, proven GGUF on a laptop."""

from importlib.metadata import version

__version__ = version("qwen35-gguf")
