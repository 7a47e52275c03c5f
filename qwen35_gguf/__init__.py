"""Qwen3.5 from a Hugging Face checkpoint to a fast, proven GGUF on a laptop.

    import qwen35_gguf

    files = qwen35_gguf.convert("Qwen/Qwen3.5-0.8B", "Q4_K_M", "models")
    with qwen35_gguf.Qwen35(files[0]) as model:
        print(model.chat([{"role": "user", "content": "Hello"}]).text)

The names in `__all__` are the public ones, with those of `ggml_ops` and `quant`. Each is imported when it is
first used: importing the package loads neither numpy nor llama.cpp.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen35_gguf import errors, ggml_ops, quant
    from qwen35_gguf.convert.hf_to_gguf import convert  # at run time the subpackage, which is callable
    from qwen35_gguf.errors import (
        AdapterError,
        AnswerError,
        BusyError,
        CheckpointError,
        ChecksumError,
        ClosedError,
        ContextError,
        CopyError,
        CostsError,
        DeviceError,
        ForkError,
        GgufError,
        GrammarError,
        HubError,
        ImatrixError,
        LogitsError,
        MediaError,
        MemoryLimitError,
        MessageError,
        MetadataError,
        MissingDependencyError,
        ModelError,
        MomentsError,
        NonFiniteError,
        OutputError,
        PackageError,
        PublishError,
        QuantizationError,
        QueueFullError,
        Qwen35Error,
        RecipeError,
        RpcServerError,
        ServerError,
        SetupError,
        TextError,
        ThreadLimitError,
        TimeLimitError,
        ToolError,
        UnitError,
        UnknownTargetError,
        VisionError,
    )
    from qwen35_gguf.quant import quantize
    from qwen35_gguf.runtime import AsyncQwen35, Qwen35
    from qwen35_gguf.runtime.async_model import AsyncStream
    from qwen35_gguf.runtime.chat.openai_types import (
        ChatCompletion,
        ChatCompletionChunk,
        Choice,
        ChunkChoice,
        Completion,
        CompletionChunk,
        Delta,
        Message,
        ParsedChatCompletion,
        Timings,
        Usage,
    )
    from qwen35_gguf.runtime.engine.forest.reuse import CacheInfo
    from qwen35_gguf.runtime.engine.token_mask import Grammar
    from qwen35_gguf.runtime.media.image import MediaLimits
    from qwen35_gguf.runtime.media.video import VideoLimits
    from qwen35_gguf.runtime.options import GenerateOptions, LoadOptions
    from qwen35_gguf.runtime.stream import Stream

    __version__: str

__all__ = [
    "AdapterError",
    "AnswerError",
    "AsyncQwen35",
    "AsyncStream",
    "BusyError",
    "CacheInfo",
    "ChatCompletion",
    "ChatCompletionChunk",
    "CheckpointError",
    "ChecksumError",
    "Choice",
    "ChunkChoice",
    "ClosedError",
    "Completion",
    "CompletionChunk",
    "ContextError",
    "CopyError",
    "CostsError",
    "Delta",
    "DeviceError",
    "ForkError",
    "GenerateOptions",
    "GgufError",
    "Grammar",
    "GrammarError",
    "HubError",
    "ImatrixError",
    "LoadOptions",
    "LogitsError",
    "MediaError",
    "MediaLimits",
    "MemoryLimitError",
    "Message",
    "MessageError",
    "MetadataError",
    "MissingDependencyError",
    "ModelError",
    "MomentsError",
    "NonFiniteError",
    "OutputError",
    "PackageError",
    "ParsedChatCompletion",
    "PublishError",
    "QuantizationError",
    "QueueFullError",
    "Qwen35",
    "Qwen35Error",
    "RecipeError",
    "RpcServerError",
    "ServerError",
    "SetupError",
    "Stream",
    "TextError",
    "ThreadLimitError",
    "TimeLimitError",
    "Timings",
    "ToolError",
    "UnitError",
    "UnknownTargetError",
    "Usage",
    "VideoLimits",
    "VisionError",
    "__version__",
    "convert",
    "errors",
    "ggml_ops",
    "quant",
    "quantize",
]

_MODULES = {
    "quant": ("quantize",),
    "runtime": ("AsyncQwen35", "Qwen35"),
    "runtime.async_model": ("AsyncStream",),
    "runtime.chat.openai_types": (
        "ChatCompletion",
        "ChatCompletionChunk",
        "Choice",
        "ChunkChoice",
        "Completion",
        "CompletionChunk",
        "Delta",
        "Message",
        "ParsedChatCompletion",
        "Timings",
        "Usage",
    ),
    "runtime.engine.forest.reuse": ("CacheInfo",),
    "runtime.engine.token_mask": ("Grammar",),
    "runtime.media.image": ("MediaLimits",),
    "runtime.media.video": ("VideoLimits",),
    "runtime.options": ("GenerateOptions", "LoadOptions"),
    "runtime.stream": ("Stream",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # else every name would have a type

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version("qwen35-gguf")
        elif name in ("convert", "errors", "ggml_ops", "quant"):
            value = importlib.import_module(f"{__name__}.{name}")
        else:
            value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
