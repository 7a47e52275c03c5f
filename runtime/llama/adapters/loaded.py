"""GGUF LoRAs that were loaded with a model, and are applied in all of its contexts."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qwen35_gguf.errors import AdapterError
from qwen35_gguf.runtime.llama.library import clear_messages, library, reason


class AdapterSpec(NamedTuple):
    """A GGUF LoRA and the weight of its updates."""

    path: Path
    scale: float = 1.0


class LoadedAdapters(NamedTuple):
    """Adapters of a model, which are freed with it: `llama_adapter_lora_p` and their scales."""

    pointers: tuple[Any, ...] = ()
    scales: tuple[float, ...] = ()

    def use(self, context: Any) -> None:
        """Apply them in a context (`llama_context_p`)."""
        if self.pointers:
            count = len(self.pointers)
            pointers = (ctypes.c_void_p * count)(*(ctypes.cast(pointer, ctypes.c_void_p) for pointer in self.pointers))
            typed = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))
            library().llama_set_adapters_lora(context, typed, count, (ctypes.c_float * count)(*self.scales))


def load_adapters(model: Any, specs: Sequence[AdapterSpec]) -> LoadedAdapters:
    """Load adapters into a model (`llama_model_p`), before its contexts are made.

    Raises:
        AdapterError: llama.cpp refuses one; its reason is given.

    """
    pointers = []
    for spec in specs:
        clear_messages()
        pointer = library().llama_adapter_lora_init(model, os.fsencode(spec.path))
        if not pointer:
            raise AdapterError(f"{spec.path}: cannot be loaded ({reason()})")
        pointers.append(pointer)
    return LoadedAdapters(tuple(pointers), tuple(spec.scale for spec in specs))
