"""What a caller decides: how a model is loaded, and how an answer is generated."""

from qwen35_gguf.runtime.options.generate import MANY_OPTIONS, RAW_OPTIONS, GenerateOptions
from qwen35_gguf.runtime.options.load import LoadOptions
from qwen35_gguf.runtime.options.signature import with_fields_of

__all__ = ["MANY_OPTIONS", "RAW_OPTIONS", "GenerateOptions", "LoadOptions", "with_fields_of"]
