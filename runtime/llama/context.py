"""A context: KV cache, recurrent states and buffers; evaluating, logits, hidden states, and copies of states."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf import address_space
from qwen35_gguf.errors import ContextError, MemoryLimitError, ModelError
from qwen35_gguf.runtime.context_spec import KV_TYPES, ContextSpec
from qwen35_gguf.runtime.llama.batch import Batch, FloatArray, IntArray, Part
from qwen35_gguf.runtime.llama.eval_callback import EvalCallback
from qwen35_gguf.runtime.llama.handle import Handle
from qwen35_gguf.runtime.llama.library import (
    Closing,
    clear_messages,
    draft_rows_setter,
    extension_library,
    library,
    reason,
    set_fields,
)
from qwen35_gguf.runtime.llama.model import Model, count_tensors
from qwen35_gguf.thread_limit import require_threads

ByteArray = npt.NDArray[np.uint8]

NO_SLOT = 1  # of llama_decode: no place in the KV cache
FLASH_AUTO, FLASH_OFF = -1, 0  # of llama_flash_attn_type
OTHER_THREADS = 4  # beside those that compute: of the engine, images, states, and one that waits
YARN = 2  # LLAMA_ROPE_SCALING_TYPE_YARN


def context_fields(spec: ContextSpec) -> dict[str, Any]:
    """Return the fields of `llama_context_params`."""
    fields: dict[str, Any] = {
        "n_ctx": spec.cells,
        "n_batch": spec.n_batch,
        "n_ubatch": spec.n_batch,
        "n_threads": spec.n_threads,
        "n_threads_batch": spec.n_threads_batch or spec.n_threads,
        "n_rs_seq": spec.n_rs_seq,
        "n_seq_max": spec.n_seq,
        "n_outputs_max": max(spec.n_outputs, spec.n_seq),
        "kv_unified": spec.n_seq > 1 and not spec.separate,
        "type_k": KV_TYPES[spec.kv_type],
        "type_v": KV_TYPES[spec.kv_type],
        "flash_attn_type": FLASH_AUTO if spec.flash_attention else FLASH_OFF,
        "no_perf": True,
    }
    if spec.yarn is not None:
        fields["rope_scaling_type"] = YARN
        fields["rope_freq_scale"], fields["yarn_orig_ctx"] = spec.yarn.freq_scale, spec.yarn.native_ctx
    return fields


def check_room(path: Path, spec: ContextSpec, what: str) -> None:
    """Refuse a context whose graph and scheduler would not fit into a limit of the address space.

    They are reserved for the largest graph that llama.cpp expects, and hardly used.

    Args:
        path: of the model.
        spec: of the context.
        what: names it.

    Source: llama.cpp src/llama-context.cpp (graph_max_nodes), ggml/src/ggml-backend.cpp (ggml_backend_sched_new).

    Raises:
        MemoryLimitError: they do not fit.

    """
    if address_space.limit() is not None:
        nodes = max(40 * min(spec.cells, spec.n_batch), 32 * count_tensors(path))
        address_space.require(nodes * address_space.NODE_BYTES, what, max(spec.n_threads, spec.n_threads_batch or 0))


class Context(Closing):
    """Memory (KV cache and recurrent states) and buffers for evaluating a model.

    Attributes:
        handle: of `llama_context_p`.
        model: whose weights it computes with.
        spec: what it was made with.
        n_ctx: cells.
        n_batch: rows of one call at most.
        draft_rows: first rows of the output matrix that the MTP head reads; 0: all.

    """

    def __init__(
        self,
        model: Model,
        spec: ContextSpec,
        *,
        hidden: bool = False,
        mtp_of: Context | None = None,
        eval_callback: EvalCallback | None = None,
    ) -> None:
        """Make a context.

        Args:
            model: must outlive it.
            spec: see `ContextSpec`.
            hidden: also give the hidden states after the final norm, which the MTP head takes.
            mtp_of: make a context for the MTP head of this context's model.
            eval_callback: sees the nodes of the graph as they are computed.

        Raises:
            ModelError: there is not enough memory, or llama.cpp refuses; its reason is given.
            MemoryLimitError: there is a limit of the address space, and it does not fit.
            ThreadLimitError: its threads cannot be started.
            RpcServerError: an RPC server is gone.

        """
        self._library = lib = library()
        self.model = model
        self._rpc, self._callback = model.rpc, eval_callback
        params = lib.llama_context_default_params()
        set_fields(params, context_fields(spec))
        if mtp_of is not None:
            params.ctx_type, params.ctx_other = lib.LLAMA_CONTEXT_TYPE_MTP, mtp_of.pointer
        if eval_callback is not None:
            params.cb_eval, params.cb_eval_user_data = eval_callback.function, None
        what = f"context of {spec.n_ctx} tokens"
        check_room(model.path, spec, what)
        require_threads(max(spec.n_threads, spec.n_threads_batch or 0) + OTHER_THREADS, what)
        clear_messages()
        pointer = lib.llama_init_from_model(model.pointer, params)
        if not pointer:
            self._rpc.check()
            raise ModelError(f"{what}: cannot be made ({reason('too little memory')})")
        needs = [model.handle, *([mtp_of.handle] if mtp_of is not None else [])]
        self.handle: Handle = Handle(self, pointer, lib.llama_free, *needs)
        try:
            address_space.require(0, what)
        except MemoryLimitError:
            self.handle.close()
            raise
        model.adapters.use(pointer)
        self.memory = lib.llama_get_memory(pointer)
        self.spec, self.n_ctx, self.n_batch = spec, spec.n_ctx, spec.n_batch
        self.mtp = mtp_of is not None
        self._batch = Batch(spec.n_batch, model.n_embd if self.mtp else 0)
        self._embedding_batch: Batch | None = None  # made with the first image
        self._rows = 0  # of the last call
        if hidden or self.mtp:
            self._ext = extension_library()
            # Of all rows: "masked" gives the head's first rows, not those with logits (llama-context.cpp, decode).
            self._ext.llama_set_embeddings_nextn(self.pointer, True, False)
        self._set_draft_rows, self.draft_rows = draft_rows_setter() if self.mtp else None, 0

    def close(self) -> None:
        """Free it; a second call does nothing."""
        self.handle.close()

    @property
    def pointer(self) -> Any:
        """`llama_context_p`; errors as of `Handle.pointer`."""
        return self.handle.pointer

    def evaluate(
        self, tokens: Sequence[int], pos: int, *, seq: int = 0, outputs: int = 0, embd: FloatArray | None = None
    ) -> None:
        """Evaluate consecutive tokens of a sequence, at most `n_batch`, with logits for the last `outputs`.

        Args:
            tokens: ids.
            pos: position of the first.
            seq: the sequence.
            outputs: rows at the end that get logits.
            embd: (tokens, n_embd) float32, the hidden states that the context of an MTP head takes.

        Raises:
            ContextError: no cells are left.
            ModelError: llama.cpp fails.
            RpcServerError: an RPC server is gone.

        """
        self.evaluate_parts([Part(tokens, pos, seq, outputs, embd)])

    def evaluate_parts(self, parts: Sequence[Part]) -> None:
        """Evaluate tokens of several sequences, at most `n_batch` in all; errors as of `evaluate`.

        The rows of the call are those of the parts, one after the other.
        """
        self._batch.fill(parts)
        self._decode(self._batch)

    def evaluate_embeddings(self, values: FloatArray, positions: IntArray, *, seq: int = 0, outputs: int = 0) -> None:
        """Evaluate rows of an image, at most `n_batch`; errors as of `evaluate`.

        Args:
            values: (rows, n_embd) float32.
            positions: (4, rows) int32: time, row, column, and one that is not used.
            seq: the sequence.
            outputs: rows at the end that get logits.

        """
        if self._embedding_batch is None:
            self._embedding_batch = Batch(self.n_batch, self.model.n_embd, tokens=False)
        self._embedding_batch.fill_embeddings(values, positions, seq=seq, outputs=outputs)
        self._decode(self._embedding_batch)

    def _decode(self, batch: Batch) -> None:
        self.model.check_files()
        self._rows = batch.struct.n_tokens
        clear_messages()
        callback = self._callback
        with self.handle.in_use() as pointer, callback.held_interrupts() if callback else nullcontext():
            result = self._library.llama_decode(pointer, batch.struct)
        if callback is not None:
            callback.check()
        self._rpc.check()
        if result == NO_SLOT:
            raise ContextError(f"the context of {self.n_ctx} tokens is full; raise n_ctx")
        if result != 0:
            raise ModelError(f"llama.cpp cannot evaluate ({reason(f'llama_decode returned {result}')})")

    def wait(self) -> None:
        """Wait until the last call is computed, on devices that compute beside the CPU."""
        self._library.llama_synchronize(self.pointer)

    def logits(self, row: int) -> FloatArray:
        """Return the logits of a row of the last call (-1: the last), (n_vocab,) float32, valid until the next."""
        pointer = self._library.llama_get_logits_ith(self.pointer, row)
        self._rpc.check()  # the call above waits for the servers
        if not pointer:
            raise ModelError(f"llama.cpp has no logits of row {row}")
        return _floats(pointer, self.model.n_vocab)

    def last_logits(self, rows: int) -> FloatArray:
        """Return the logits of the last call's last `rows`, (rows, n_vocab) float32, valid until the next.

        llama.cpp stores the rows that were asked for one after another.
        """
        first = self.logits(self._rows - rows)
        return np.ctypeslib.as_array(first.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), (rows, first.size))

    def hidden(self, rows: int) -> FloatArray:
        """Return the hidden states of the last call's `rows`, (rows, n_embd) float32, valid until the next."""
        pointer = self._ext.llama_get_embeddings_nextn(self.pointer)
        if not pointer:
            raise ModelError("llama.cpp gives no hidden states for the MTP head")
        return _floats(pointer, rows * self.model.n_embd).reshape(rows, -1)

    def head_hidden(self, row: int = -1) -> FloatArray:
        """Return the MTP head's own hidden state of a row of its call (-1: the last), (n_embd,) float32."""
        pointer = self._ext.llama_get_embeddings_nextn_ith(self.pointer, row if row >= 0 else self._rows + row)
        if not pointer:
            raise ModelError("llama.cpp gives no hidden state of the MTP head")
        return _floats(pointer, self.model.n_embd)

    @property
    def can_read_fewer_rows(self) -> bool:
        """Whether the MTP head may read fewer rows than all: if llama.cpp can, and the file does not say how many."""
        return self._set_draft_rows is not None and self.model.draft_rows == 0

    def read_rows(self, rows: int) -> None:
        """Let the MTP head read the first rows of the output matrix only; 0: all. Logits of others are -inf then."""
        if self._set_draft_rows is not None and rows != self.draft_rows:
            self._set_draft_rows(self.pointer, rows)
            self.draft_rows = rows

    def clear(self) -> None:
        """Empty all sequences."""
        self._library.llama_memory_clear(self.memory, False)

    def remove(self, pos: int, *, seq: int = 0) -> bool:
        """Remove the cells from `pos` on; False if a recurrent state cannot be rolled back that far."""
        return bool(self._library.llama_memory_seq_rm(self.memory, seq, pos, -1))

    def share(self, source: int, target: int, pos: int) -> None:
        """Let a sequence that is empty hold the keys and values of another one before `pos`, which it shares with it.

        Its recurrent state is that of the other one, until another one is restored.
        """
        self._library.llama_memory_seq_cp(self.memory, source, target, 0, pos)

    def state(self, *, partial: bool, seq: int = 0) -> ByteArray:
        """Copy the state of a sequence: recurrent states only (`partial`), or these and the KV cache, as bytes."""
        lib, flags = self._library, self._flags(partial)
        size = lib.llama_state_seq_get_size_ext(self.pointer, seq, flags)
        data = np.empty(size, np.uint8)
        if lib.llama_state_seq_get_data_ext(self.pointer, _bytes(data), size, seq, flags) != size:
            raise ModelError(f"llama.cpp cannot copy its state ({reason()})")
        return data

    def state_size(self, *, partial: bool, seq: int = 0) -> int:
        """Return the bytes that `state` would take."""
        return int(self._library.llama_state_seq_get_size_ext(self.pointer, seq, self._flags(partial)))

    def restore(self, data: ByteArray, *, partial: bool, seq: int = 0) -> bool:
        """Restore a state; False if llama.cpp refuses it, and then the sequence may be empty."""
        flags = self._flags(partial)
        return bool(self._library.llama_state_seq_set_data_ext(self.pointer, _bytes(data), data.nbytes, seq, flags))

    def _flags(self, partial: bool) -> int:
        return int(self._library.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if partial else 0)


def _floats(pointer: Any, count: int) -> FloatArray:
    """Show memory of llama.cpp as an array; ten times as fast as `numpy.ctypeslib.as_array`, for each token."""
    memory: Any = (ctypes.c_float * count).from_address(ctypes.addressof(pointer.contents))
    return np.frombuffer(memory, np.float32)


def _bytes(data: ByteArray) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
