"""llama.cpp through its low-level API: models, contexts and states as small objects with a `close`.

Beside the samplers (chain.py) no other module of the text runtime touches `llama_cpp`, and none the unstable
`llama_cpp_ext`. Nothing is printed: llama.cpp's
messages are captured, and the last error among them becomes the reason in an exception.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import ContextError, MissingDependencyError, ModelError, WorkerError

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

LOG_ERROR = 4  # of ggml_log_level
MESSAGES_KEPT = 20
NO_SLOT = 1  # of llama_decode: no place in the KV cache
KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2}

LOST = re.compile(r"RPC server (\S+) is lost")  # ggml-rpc.cpp, patched; stock ends the process

_messages: list[str] = []
_lost_workers: list[str] = []
_callback: Any = None


def library() -> Any:
    """Import `llama_cpp` and capture its messages.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed.

    """
    global _callback
    try:
        import llama_cpp
    except ImportError:
        message = "llama-cpp-python is needed to run a model; install it with pip install 'qwen35-gguf[runtime]'"
        raise MissingDependencyError(message) from None
    if _callback is None:

        def log(level: int, text: bytes, _: Any) -> None:
            if level == LOG_ERROR:
                line = text.decode("utf-8", errors="replace").strip()
                if line:
                    _messages.append(line)
                    if lost := LOST.search(line):
                        _lost_workers.append(lost[1])
                    del _messages[:-MESSAGES_KEPT]

        _callback = llama_cpp.llama_log_callback(log)  # has to live as long as the library
    llama_cpp.llama_log_set(_callback, None)  # again, since others may have set theirs
    return llama_cpp


def reason(default: str) -> str:
    """Return the first message since the last call, without its function's name, or `default`."""
    text = _messages[0] if _messages else default
    _messages.clear()
    return re.sub(r"^\w+: ", "", text)


def default_threads() -> int:
    """Count the physical cores that this process may use; half the logical ones where the system does not say."""
    logical = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    cores = set()
    try:
        for cpu in logical:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
    except OSError:
        return max(1, len(logical) // 2)
    return max(1, len(cores))


def check_workers() -> None:
    """Raise if a worker of the model that was loaded last is gone; what it had to compute is lost.

    Raises:
        WorkerError: which one.

    """
    if _lost_workers:
        raise WorkerError(f"worker {_lost_workers[0]}: is gone; start it again, or leave it out of --rpc")


def _set_fields(params: Any, fields: dict[str, Any] | None) -> None:
    known = {name for name, _ in params._fields_}
    for key, value in (fields or {}).items():
        if key not in known:  # ctypes would take it for an attribute of the object
            raise ModelError(f"this llama-cpp-python knows no option {key}; install the version that is pinned")
        setattr(params, key, value)


def clear_messages() -> None:
    """Forget the messages so far, so that `reason` tells of what comes."""
    _messages.clear()


class Closing:
    """Something with a `close` that may be called twice and is called at the end of a `with`."""

    def close(self) -> None:
        """Free it."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Model(Closing):
    """A loaded text model with its vocabulary.

    Attributes:
        pointer: `llama_model_p`, for those who call llama.cpp themselves (the vision tower).
        n_embd: width of the hidden state.
        n_vocab: rows of the output.

    """

    def __init__(
        self, path: Path, *, load_mtp: bool = False, options: dict[str, Any] | None = None, keep: Any = None
    ) -> None:
        """Load a GGUF, all of it on the host unless the options say otherwise.

        Args:
            path: of a text model.
            load_mtp: with the MTP head.
            options: further fields of `llama_model_params`.
            keep: what these point to, which has to live as long as the model.

        Raises:
            ModelError: llama.cpp cannot load it; its reason is given.
            MissingDependencyError: llama-cpp-python is not installed.

        """
        self._library = lib = library()
        self.pointer: Any = None
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.load_mtp, params.n_gpu_layers = load_mtp, 0
        _set_fields(params, options)
        self._kept = keep
        _messages.clear()
        _lost_workers.clear()
        self.pointer = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            check_workers()
            raise ModelError(f"{path}: cannot be loaded ({reason('no reason given')})")
        self.vocab = lib.llama_model_get_vocab(self.pointer)
        self.n_embd = int(lib.llama_model_n_embd(self.pointer))
        self.n_vocab = int(lib.llama_vocab_n_tokens(self.vocab))
        self._pieces: dict[int, bytes] = {}

    def close(self) -> None:
        """Free the weights; contexts have to be closed before."""
        if self.pointer:
            self._library.llama_model_free(self.pointer)
        self.pointer = None

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

    def chat_template(self) -> str | None:
        """Return the file's chat template, None if it has none."""
        template = self._library.llama_model_chat_template(self.pointer, None)
        return template.decode("utf-8", errors="replace") if template else None

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Turn text into token ids; with `special` the names of special tokens are these tokens. No BOS is added."""
        raw = text.encode("utf-8", errors="replace")
        count = len(raw) + 8
        buffer = (self._library.llama_token * count)()
        n = self._library.llama_tokenize(self.vocab, raw, len(raw), buffer, count, False, special)
        if n < 0:
            raise ModelError("prompt: cannot be split into tokens; check the file's tokenizer")
        return list(buffer[:n])

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; control tokens have none, think and tool tags do."""
        known = self._pieces.get(token)
        if known is None:
            buffer = ctypes.create_string_buffer(256)
            size = self._library.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
            if size < 0:
                buffer = ctypes.create_string_buffer(-size)
                size = self._library.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
            known = self._pieces[token] = buffer.raw[:size]
        return known

    def text_of(self, token: int) -> str:
        """Return how the vocabulary writes a token, "" for none (-1)."""
        text = self._library.llama_vocab_get_text(self.vocab, token) if token >= 0 else b""
        return text.decode("utf-8", errors="replace") if text else ""

    @property
    def bos_token(self) -> str:
        """The text of the token at the beginning of a text, if there is one."""
        return self.text_of(self._library.llama_vocab_bos(self.vocab))

    @property
    def eos_token(self) -> str:
        """The text of the token at the end of a text."""
        return self.text_of(self._library.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        """Whether raw text gets a BOS (Qwen3.5's does not)."""
        return bool(self._library.llama_vocab_get_add_bos(self.vocab))

    def ends(self, token: int) -> bool:
        """Say whether a token ends the generation."""
        return bool(self._library.llama_vocab_is_eog(self.vocab, token))


class Batch:
    """A `llama_batch` over arrays of Python, filled again for each call; nothing is to be freed."""

    def __init__(self, capacity: int, n_embd: int = 0) -> None:
        """Make room for `capacity` rows, each with an embedding of `n_embd` beside the token, if not 0."""
        lib = library()
        self.capacity = capacity
        self.token = np.zeros(capacity, np.int32)
        self.pos = np.zeros(capacity, np.int32)
        self.outputs = np.zeros(capacity, np.int8)
        self.sequence = np.zeros(capacity, np.int32)
        self.embd = np.zeros((capacity, n_embd), np.float32) if n_embd else None
        self._counts = np.ones(capacity, np.int32)
        first = self.sequence.ctypes.data
        self._rows = first + 4 * np.arange(capacity, dtype=np.uint64)
        self.struct = lib.llama_batch()
        self.struct.token = self.token.ctypes.data_as(ctypes.POINTER(lib.llama_token))
        self.struct.pos = self.pos.ctypes.data_as(ctypes.POINTER(lib.llama_pos))
        self.struct.n_seq_id = self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self.struct.seq_id = self._rows.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        self.struct.logits = self.outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        if self.embd is not None:
            self.struct.embd = self.embd.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def fill(self, tokens: Sequence[int], pos: int, *, seq: int = 0, outputs: int = 0) -> None:
        """Set consecutive tokens of one sequence, with logits for the last `outputs` of them."""
        n = len(tokens)
        self.struct.n_tokens = n
        self.token[:n] = tokens
        self.pos[:n] = np.arange(pos, pos + n, dtype=np.int32)
        self.sequence[:n] = seq
        self.outputs[:n] = 0
        if outputs:
            self.outputs[n - outputs : n] = 1

    def fill_rows(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """Set one token for each of several sequences, all with logits."""
        n = len(tokens)
        self.struct.n_tokens = n
        self.token[:n], self.pos[:n], self.sequence[:n], self.outputs[:n] = tokens, positions, sequences, 1


class Context(Closing):
    """Memory (KV cache and recurrent states) and buffers for evaluating a model.

    Attributes:
        pointer: `llama_context_p`, for those who call llama.cpp themselves (the vision tower).
        n_ctx: cells.
        n_batch: most rows of one call; also the physical batch, so that a call is never split.

    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int = 512,
        n_threads: int = 1,
        rollback: int = 0,
        sequences: int = 1,
        outputs: int = 1,
        kv_type: str = "f16",
        hidden: bool = False,
        mtp_of: Context | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Make a context.

        Args:
            model: has to outlive it.
            n_ctx: cells, over all sequences.
            n_batch: rows of one call at most.
            n_threads: for everything.
            rollback: how many of the last call's tokens may be removed again (`n_rs_seq`).
            sequences: how many of them, sharing the cells.
            outputs: rows with logits of one call at most.
            kv_type: of both caches; a key of `KV_TYPES`.
            hidden: also give the hidden states after the final norm, which the MTP head takes.
            mtp_of: make a context for the MTP head of this context's model.
            options: further fields of `llama_context_params` (YaRN's, for example).

        Raises:
            ModelError: there is not enough memory, or llama.cpp refuses; its reason is given.

        """
        self._library = lib = library()
        self._model = model
        self.pointer: Any = None
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_batch, n_batch
        params.n_threads = params.n_threads_batch = n_threads
        params.n_rs_seq, params.n_seq_max, params.n_outputs_max = rollback, sequences, max(outputs, sequences)
        params.kv_unified = sequences > 1
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.no_perf = True
        if mtp_of is not None:
            params.ctx_type, params.ctx_other = lib.LLAMA_CONTEXT_TYPE_MTP, mtp_of.pointer
        _set_fields(params, options)
        _messages.clear()
        self.pointer = lib.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            check_workers()
            raise ModelError(f"context of {n_ctx} tokens: cannot be made ({reason('too little memory')})")
        self.memory = lib.llama_get_memory(self.pointer)
        self.n_ctx, self.n_batch = n_ctx, n_batch
        self.mtp = mtp_of is not None
        self._batch = Batch(n_batch, model.n_embd if self.mtp else 0)
        self._vector = (model.n_vocab,)
        self._rows = 0  # of the last call
        if hidden or self.mtp:
            from llama_cpp import llama_cpp_ext as ext

            self._ext = ext
            # Of all rows: "masked" gives the head's first rows, not those with logits (llama-context.cpp, decode).
            ext.llama_set_embeddings_nextn(self.pointer, True, False)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self.pointer:
            self._library.llama_free(self.pointer)
        self.pointer = None

    def evaluate(
        self, tokens: Sequence[int], pos: int, *, seq: int = 0, outputs: int = 0, embd: FloatArray | None = None
    ) -> None:
        """Evaluate consecutive tokens of a sequence, at most `n_batch`, with logits for the last `outputs`.

        Args:
            tokens: ids.
            pos: position of the first.
            seq: the sequence.
            outputs: how many rows at the end get logits.
            embd: (tokens, n_embd) float32, the hidden states that an MTP context takes.

        Raises:
            ContextError: no cells are left.
            ModelError: llama.cpp fails.

        """
        self._batch.fill(tokens, pos, seq=seq, outputs=outputs)
        if embd is not None and self._batch.embd is not None:
            self._batch.embd[: len(tokens)] = embd
        self._decode()

    def evaluate_rows(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """Evaluate one token for each of several sequences, with logits for all; errors as of `evaluate`."""
        self._batch.fill_rows(tokens, positions, sequences)
        self._decode()

    def _decode(self) -> None:
        self._rows = self._batch.struct.n_tokens
        _messages.clear()
        result = self._library.llama_decode(self.pointer, self._batch.struct)
        check_workers()
        if result == NO_SLOT:
            raise ContextError(f"the context of {self.n_ctx} tokens is full; raise n_ctx")
        if result != 0:
            raise ModelError(f"llama.cpp cannot evaluate ({reason(f'llama_decode returned {result}')})")

    def logits(self, row: int) -> FloatArray:
        """Return the logits of a row of the last call (-1: the last), (n_vocab,) float32, valid until the next."""
        pointer = self._library.llama_get_logits_ith(self.pointer, row)
        check_workers()  # the call above waits for them
        if not pointer:
            raise ModelError(f"llama.cpp has no logits of row {row}")
        return np.ctypeslib.as_array(pointer, self._vector)

    def last_logits(self, rows: int) -> FloatArray:
        """Return the logits of the last call's last `rows`, (rows, n_vocab) float32, valid until the next.

        llama.cpp keeps the rows that were asked for one after another.
        """
        first = self.logits(self._rows - rows)
        return np.ctypeslib.as_array(first.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), (rows, first.size))

    def hidden(self, rows: int) -> FloatArray:
        """Return the hidden states of the last call's `rows`, (rows, n_embd) float32, valid until the next."""
        pointer = self._ext.llama_get_embeddings_nextn(self.pointer)
        if not pointer:
            raise ModelError("llama.cpp gives no hidden states for the MTP head")
        return np.ctypeslib.as_array(pointer, (rows, self._model.n_embd))

    def head_hidden(self) -> FloatArray:
        """Return the MTP head's own hidden state of the last row of its call, (n_embd,) float32."""
        pointer = self._ext.llama_get_embeddings_nextn_ith(self.pointer, self._rows - 1)
        if not pointer:
            raise ModelError("llama.cpp gives no hidden state of the MTP head")
        return np.ctypeslib.as_array(pointer, (self._model.n_embd,))

    def clear(self) -> None:
        """Forget all sequences."""
        self._library.llama_memory_clear(self.memory, False)

    def remove(self, pos: int, *, seq: int = 0) -> bool:
        """Remove what stands at `pos` and after; False if a recurrent state does not reach back so far."""
        return bool(self._library.llama_memory_seq_rm(self.memory, seq, pos, -1))

    def state(self, *, partial: bool) -> ByteArray:
        """Copy the state of sequence 0: recurrent states only (`partial`), or these and the KV cache, as bytes."""
        lib, flags = self._library, self._flags(partial)
        size = lib.llama_state_seq_get_size_ext(self.pointer, 0, flags)
        data = np.empty(size, np.uint8)
        if lib.llama_state_seq_get_data_ext(self.pointer, _bytes(data), size, 0, flags) != size:
            raise ModelError(f"llama.cpp cannot copy its state ({reason('no reason given')})")
        return data

    def state_size(self, *, partial: bool) -> int:
        """How many bytes `state` would take."""
        return int(self._library.llama_state_seq_get_size_ext(self.pointer, 0, self._flags(partial)))

    def restore(self, data: ByteArray, *, partial: bool) -> bool:
        """Put a state back; False if llama.cpp does not take it, and then the sequence may be empty."""
        flags = self._flags(partial)
        return bool(self._library.llama_state_seq_set_data_ext(self.pointer, _bytes(data), data.nbytes, 0, flags))

    def _flags(self, partial: bool) -> int:
        return int(self._library.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if partial else 0)


def _bytes(data: ByteArray) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
