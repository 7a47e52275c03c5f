"""A loaded model with its vocabulary: which tensors are on which devices, metadata."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_gguf import address_space
from qwen35_gguf.errors import AdapterError, DeviceError, GgufError, ModelError
from qwen35_gguf.gguf_file.mapped_files import MappedFiles
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.gguf_file.shards import MAX_SHARDS, SHARD_NAME, shard_path
from qwen35_gguf.runtime.llama.adapters.loaded import AdapterSpec, load_adapters
from qwen35_gguf.runtime.llama.devices import CPU, Offload
from qwen35_gguf.runtime.llama.handle import Handle
from qwen35_gguf.runtime.llama.library import (
    Closing,
    RpcConnections,
    clear_messages,
    ggml_library,
    library,
    note_process,
    reason,
    set_fields,
)
from qwen35_gguf.runtime.llama.vocabulary import Vocabulary

LOAD_MODES = {(False, False): 0, (True, False): -1, (False, True): 2, (True, True): 3}  # llama_load_mode; -1: mmap


@dataclass(frozen=True)
class ModelSpec:
    """How a model is loaded.

    Attributes:
        offload: what is on other devices than the CPU.
        mtp: also load the MTP head.
        repack: copy weights into another order (`use_extra_bufts`).
        mmap: map the file instead of reading it.
        mlock: keep its pages in memory.
        adapters: GGUF LoRAs, which were compared with the file (`check_adapter`).

    """

    offload: Offload = Offload()  # noqa: RUF009 (frozen)
    mtp: bool = False
    repack: bool = True
    mmap: bool = True
    mlock: bool = False
    adapters: tuple[AdapterSpec, ...] = ()


class _Override(ctypes.Structure):
    """`llama_model_tensor_buft_override`."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def offload_fields(offload: Offload) -> tuple[dict[str, Any], list[Any]]:
    """Return the fields of `llama_model_params`, and the objects that must live as long as the model.

    Source: llama.cpp include/llama.h (llama_model_params) and src/llama-model.cpp (load_tensors: how `tensor_split`
    distributes the layers, and how patterns of `tensor_buft_overrides` are matched: the first match in a name counts).

    Raises:
        DeviceError: an override names a device that is not among those of the offload.

    """
    # Set also where it is empty: without a list llama.cpp takes all devices, and computes long prompts on them.
    handles = (ctypes.c_void_p * (len(offload.devices) + 1))(*(device.pointer for device in offload.devices), None)
    fields: dict[str, Any] = {"devices": ctypes.addressof(handles), "n_gpu_layers": offload.n_gpu_layers}
    keep: list[Any] = [handles]
    if offload.tensor_split:
        split = (ctypes.c_float * library().llama_max_devices())(*offload.tensor_split)
        fields["tensor_split"] = split
        keep.append(split)
    if offload.overrides:
        table = (_Override * (len(offload.overrides) + 1))()  # the last entry stays empty: the end
        for entry, (pattern, name) in zip(table[:-1], offload.overrides, strict=True):
            entry.pattern, entry.buffer_type = pattern.encode(), _buffer_type(offload, name)
        fields["tensor_buft_overrides"] = ctypes.addressof(table)
        keep.append(table)
    return fields, keep


def _buffer_type(offload: Offload, name: str) -> Any:
    ggml = ggml_library()
    ggml.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_buffer_type.restype = ctypes.c_void_p
    if name == CPU:
        return ggml.ggml_backend_cpu_buffer_type()
    device = next((device for device in offload.devices if device.name == name), None)
    if device is None:
        raise DeviceError(f"device {name!r}: an override names it, but it is not there")
    return ggml.ggml_backend_dev_buffer_type(ctypes.c_void_p(device.pointer))


def _mapped(path: Path) -> list[Path]:
    """List the files that llama.cpp maps: one, or all shards."""
    shard = SHARD_NAME.fullmatch(path.name)
    if shard is None:
        return [path]
    count = int(shard["count"])
    return [shard_path(path.parent, shard["prefix"], index, count) for index in range(min(count, MAX_SHARDS))]


def count_tensors(path: Path) -> int:
    """Count the tensors of a model's files; 0 where they cannot be read."""
    try:
        return sum(len(read_header(one).tensors) for one in _mapped(path))
    except GgufError:
        return 0


def _check_room(path: Path, files: list[Path], spec: ModelSpec) -> None:
    """Refuse a model that would not fit into a limit of the address space: weights, copies of them, vocabulary."""
    if address_space.limit() is not None:
        size = sum(one.stat().st_size for one in files if one.exists())
        address_space.require(size * 2 if spec.repack else size, f"{path}: the model")


def _free(lib: Any, rpc: RpcConnections, files: MappedFiles, kept: list[Any]) -> Callable[[Any], None]:
    """Return how a model is freed; `kept` must live until then."""

    def free(pointer: Any) -> None:
        lib.llama_model_free(pointer)
        rpc.close()
        files.close()
        kept.clear()

    return free


def _number(lib: Any, pointer: Any, key: str) -> int:
    """Read a number of the file, by its key without the architecture; 0 if it is not there."""
    family, number = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    lib.llama_model_meta_val_str(pointer, b"general.architecture", family, len(family))
    lib.llama_model_meta_val_str(pointer, family.value + b"." + key.encode(), number, len(number))
    return int(number.value) if number.value.isdigit() else 0


class Model(Closing):
    """A loaded text model with its vocabulary.

    Attributes:
        path: the GGUF.
        handle: of `llama_model_p`.
        rpc: the RPC servers that hold layers of it.
        n_embd: width of the hidden state.
        n_vocab: rows of the output.
        draft_rows: of these, the first ones that the MTP head reads, as the file has it; 0: all of them.
        has_head: whether an MTP head is loaded.
        vocabulary: of its tokens.
        adapters: that all of its contexts apply.

    """

    def __init__(self, path: Path, spec: ModelSpec = ModelSpec()) -> None:
        """Load a GGUF, by default all of it on the CPU.

        Args:
            path: of a text model.
            spec: see `ModelSpec`.

        Raises:
            ModelError: llama.cpp cannot load it; its reason is given.
            MemoryLimitError: there is a limit of the address space, and it does not fit.
            AdapterError: llama.cpp cannot load an adapter.
            RpcServerError: an RPC server is gone.
            MissingDependencyError: llama-cpp-python is not installed.

        """
        self._library = lib = library()
        note_process()
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        fields, self._kept = offload_fields(spec.offload)
        fields |= {"load_mtp": spec.mtp, "use_extra_bufts": spec.repack, "load_mode": LOAD_MODES[spec.mmap, spec.mlock]}
        set_fields(params, fields)
        self.rpc = RpcConnections(spec.offload.endpoints)
        self.path, files = path, _mapped(path)
        _check_room(path, files, spec)
        self._files = MappedFiles(files if spec.mmap else ())
        clear_messages()
        pointer = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not pointer:
            self._files.close()
            self.rpc.close()
            self.rpc.check_shared()
            raise ModelError(f"{path}: cannot be loaded ({reason()})")
        self.handle = Handle(self, pointer, _free(lib, self.rpc, self._files, self._kept))
        try:
            self.adapters = load_adapters(pointer, spec.adapters)
        except AdapterError:
            self.close()
            raise
        self.vocab = lib.llama_model_get_vocab(self.pointer)
        self.n_embd = int(lib.llama_model_n_embd(self.pointer))
        self.vocabulary = Vocabulary(self.vocab)
        self.n_vocab = self.vocabulary.size
        self.has_head = spec.mtp and _number(lib, self.pointer, "nextn_predict_layers") > 0
        self.draft_rows = _number(lib, self.pointer, "nextn_vocab_size")

    def close(self) -> None:
        """Free the weights, after the contexts; a second call does nothing."""
        self.handle.close()

    @property
    def pointer(self) -> Any:
        """`llama_model_p`; errors as of `Handle.pointer`."""
        return self.handle.pointer

    def check_files(self) -> None:
        """Refuse to compute with weights of a file that became shorter.

        Raises:
            ModelError: it did; reading them would end the process.

        """
        if (path := self._files.shorter()) is not None:
            raise ModelError(f"{path}: became shorter while it was in use; write it anew, and load it again")

    def metadata(self) -> dict[str, str]:
        """Read the key/values as llama.cpp gives them: all as text, arrays shortened."""
        lib, found = self._library, {}
        buffer = ctypes.create_string_buffer(1 << 16)
        for i in range(lib.llama_model_meta_count(self.pointer)):
            lib.llama_model_meta_key_by_index(self.pointer, i, buffer, len(buffer))
            key = buffer.value.decode("utf-8", errors="replace")
            size = lib.llama_model_meta_val_str_by_index(self.pointer, i, buffer, len(buffer))
            if size >= len(buffer):
                buffer = ctypes.create_string_buffer(size + 1)
                lib.llama_model_meta_val_str_by_index(self.pointer, i, buffer, len(buffer))
            found[key] = buffer.value.decode("utf-8", errors="replace")
        return found

    def chat_template(self, name: str | None = None) -> str | None:
        """Return the file's chat template, or the one of a name; None if it has none."""
        template = self._library.llama_model_chat_template(self.pointer, name.encode() if name else None)
        return template.decode("utf-8", errors="replace") if template else None

    def tokenize(self, text: str) -> list[int]:
        """Turn text into token ids; see `Vocabulary`."""
        return self.vocabulary.tokenize(text)

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; see `Vocabulary`."""
        return self.vocabulary.piece(token)

    def ends(self, token: int) -> bool:
        """Report whether a token ends the generation."""
        return self.vocabulary.ends(token)
