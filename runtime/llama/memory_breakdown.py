"""The compute buffers that llama.cpp plans for a model, without loading its weights.

A model that is loaded with `no_alloc` has its tensors and no memory for them; a context of it goes through graph and
scheduler as any other, and logs the size of each device's compute buffer. Only these lines tell it: the function that
returns the figures (`llama_get_memory_breakdown`) gives a C++ map. The vocabulary is left out, since reading it takes
most of the time. A context allocates its recurrent states all the same (llama-memory-recurrent.cpp), which is what a
call costs: about 50 MiB for each state of a 9B.

Source: llama.cpp common/fit.cpp, src/llama-context.cpp (sched_reserve).
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwen35_gguf import address_space
from qwen35_gguf.errors import ModelError
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import check_room, context_fields
from qwen35_gguf.runtime.llama.devices import CPU, Device, Offload
from qwen35_gguf.runtime.llama.library import (
    Closing,
    clear_messages,
    ggml_library,
    library,
    reason,
    recorded_log,
    set_fields,
)
from qwen35_gguf.runtime.llama.model import offload_fields

BUFFER = re.compile(r"(\S+) compute buffer size\s*=\s*([\d.]+) MiB")
MIB = 1 << 20
INTEGER, TEXT = 0, 3  # of llama_model_kv_override_type
LOAD_NOTHING = 0  # LLAMA_LOAD_MODE_NONE: mmap and no_alloc exclude each other


@dataclass(frozen=True)
class MeasuredBuffers:
    """Bytes of the compute buffers of both contexts by the name of the device; 10 KiB are the unit."""

    main: dict[str, int]
    mtp: dict[str, int]


class PlannedModel(Closing):
    """A model without memory for its weights."""

    def __init__(self, path: Path, *, architecture: str, vocab_size: int, offload: Offload, mtp: bool) -> None:
        """Load the header.

        Args:
            path: of the text model.
            architecture: `general.architecture` of the file.
            vocab_size: rows of the embedding.
            offload: what is on which device.
            mtp: with the MTP head, which has a context of its own.

        Raises:
            ModelError: llama.cpp refuses the file.
            MemoryLimitError: there is a limit of the address space, and it does not fit.
            MissingDependencyError: llama-cpp-python is not installed.

        """
        self._library = lib = library()
        self._pointer: Any = None
        self._devices, self._mtp, self._path = offload.devices, mtp, path
        address_space.require(0, f"planning {path}")
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        fields, kept = offload_fields(offload)
        overrides = _without_vocabulary(lib, architecture, vocab_size)
        fields |= {"load_mtp": mtp, "no_alloc": True, "load_mode": LOAD_NOTHING, "kv_overrides": overrides}
        set_fields(params, fields)
        clear_messages()
        self._pointer = lib.llama_model_load_from_file(os.fsencode(path), params)
        self._kept = kept, overrides
        if not self._pointer:
            raise ModelError(f"{path}: cannot be loaded ({reason()})")

    def close(self) -> None:
        """Free what there is."""
        if self._pointer:
            self._library.llama_model_free(self._pointer)
        self._pointer = None

    def measure(self, spec: ContextSpec) -> MeasuredBuffers:
        """Return the compute buffers of the main model's context and of the MTP head's.

        Raises:
            ModelError: llama.cpp refuses a context, or reports no figures.

        """
        with self._context(spec) as (main, lines):
            found = _by_device(lines, self._devices)
            if not self._mtp:
                return MeasuredBuffers(found, {})
            with self._context(replace(spec, n_rs_seq=0, n_outputs=spec.n_seq), mtp_of=main) as (_, lines):
                return MeasuredBuffers(found, _by_device(lines, self._devices))

    @contextmanager
    def _context(self, spec: ContextSpec, mtp_of: Any = None) -> Iterator[tuple[Any, list[str]]]:
        """Make a context; give also what was logged."""
        lib = self._library
        check_room(self._path, spec, f"planning a context of {spec.n_ctx} tokens")
        params = lib.llama_context_default_params()
        set_fields(params, context_fields(spec))
        if mtp_of is not None:
            params.ctx_type, params.ctx_other = lib.LLAMA_CONTEXT_TYPE_MTP, mtp_of
        clear_messages()
        with recorded_log() as lines:
            context = lib.llama_init_from_model(self._pointer, params)
        if not context:
            raise ModelError(f"context of {spec.n_ctx} tokens: cannot be planned ({reason('too little memory')})")
        try:
            yield context, lines
        finally:
            lib.llama_free(context)


def _without_vocabulary(lib: Any, architecture: str, vocab_size: int) -> Any:
    overrides = (lib.llama_model_kv_override * 3)()  # the last one stays empty: the end
    overrides[0].tag, overrides[0].key = TEXT, b"tokenizer.ggml.model"
    overrides[0].value.val_str = b"no_vocab"
    overrides[1].tag, overrides[1].key = INTEGER, f"{architecture}.vocab_size".encode()
    overrides[1].value.val_i64 = vocab_size
    return overrides


def _by_device(lines: Sequence[str], devices: Sequence[Device]) -> dict[str, int]:
    """Add up the buffers of each device; what is on none of `devices` is on the CPU (its memory for GPUs, too)."""
    ggml: Any = ggml_library()
    ggml.ggml_backend_dev_buffer_type.restype = ctypes.c_void_p
    ggml.ggml_backend_buft_name.restype = ctypes.c_char_p
    buffers = {}
    for device in devices:
        kind = ctypes.c_void_p(ggml.ggml_backend_dev_buffer_type(ctypes.c_void_p(device.pointer)))
        buffers[ggml.ggml_backend_buft_name(kind).decode()] = device.name
    sizes: dict[str, int] = {}
    for buffer, size in BUFFER.findall("".join(lines)):
        name = buffers.get(buffer, CPU)
        sizes[name] = sizes.get(name, 0) + round(float(size) * MIB)
    if not sizes:
        raise ModelError("llama.cpp: reports no compute buffers; install the pinned version")
    return sizes
