"""The importance of a model's weights: sums of squares of what goes into each matrix product, over a text.

llama.cpp tells of every node of its graph (`cb_eval`); of products with a weight tensor the inputs are looked at. The
MTP head is run over the same text, so that its tensors have entries as well.

Source: llama.cpp tools/imatrix/imatrix.cpp (collect_imatrix: what is summed), ggml/include/ggml.h (struct ggml_tensor).
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import ImatrixError, ModelError
from qwen35_gguf.quant import imatrix as matrices
from qwen35_gguf.quant.imatrix import Imatrix
from qwen35_gguf.runtime import memory
from qwen35_gguf.runtime.devices import ggml_library
from qwen35_gguf.runtime.files import read_model
from qwen35_gguf.runtime.gguf_header import GgufHeader
from qwen35_gguf.runtime.installed import installed_runtime
from qwen35_gguf.runtime.llama import Context, Model
from qwen35_gguf.runtime.prefix_cache import model_identity
from qwen35_gguf.runtime.texts import Split

OUTPUT_ROWS = 64  # of a chunk go through the output matrix, which is as large as many layers together
SAVE_EVERY = 16  # chunks
TEXT_KEY, MODEL_KEY = "qwen35.imatrix.text_sha256", "qwen35.imatrix.model"
MAX_DIMS, MAX_SRC, MAX_OP_PARAMS, MAX_NAME = 4, 10, 64, 64

Advance = Callable[[int, int], None]


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor`."""


_Tensor._fields_ = (
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * MAX_DIMS),
    ("nb", ctypes.c_size_t * MAX_DIMS),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_char * MAX_OP_PARAMS),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * MAX_SRC),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * MAX_NAME),
)


class Collector:
    """Sums squares in llama.cpp's callback; what goes wrong there is kept and raised by `check`."""

    def __init__(self, names: Sequence[str]) -> None:
        """Look at products with these weight tensors."""
        import llama_cpp

        runtime = installed_runtime()
        ggml = ggml_library(runtime) if runtime else None
        if ggml is None:
            raise ModelError("llama-cpp-python: has no ggml library where it is expected; build it with `make runtime`")
        self._ggml: ctypes.CDLL = ggml
        self._ggml.ggml_op_name.restype = ctypes.c_char_p
        self._ggml.ggml_get_data.restype = ctypes.c_void_p
        self._ggml.ggml_get_name.restype = ctypes.c_void_p
        self._ggml.ggml_nbytes.restype = ctypes.c_size_t
        self._names = set(names)
        self._operations: dict[int, str] = {}
        self._checked = False
        self.error: BaseException | None = None
        self.found = Imatrix()
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._call)

    @property
    def options(self) -> dict[str, Any]:
        """The fields of `llama_context_params`."""
        return {"cb_eval": self.callback, "cb_eval_user_data": None}

    def check(self) -> None:
        """Raise what went wrong in the callback."""
        if self.error is not None:
            raise self.error

    def _call(self, address: int, ask: bool, _data: Any) -> bool:
        try:
            node = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
            if not self._checked:
                self._check_layout(address, node)
            kind = self._operation(node.op)
            if kind not in ("MUL_MAT", "MUL_MAT_ID") or node.src[0].contents.name.decode() not in self._names:
                return not ask
            if not ask:
                self._take(node, kind)
        except BaseException as error:  # there is nobody to raise it to
            self.error = error
            return False
        return True

    def _check_layout(self, address: int, node: Any) -> None:
        """Compare with what ggml's own functions say, since the layout of the struct is no part of its interface."""
        pointer = ctypes.c_void_p(address)
        same = (
            self._ggml.ggml_get_name(pointer) == address + _Tensor.name.offset
            and (self._ggml.ggml_get_data(pointer) or 0) == (node.data or 0)
            and self._ggml.ggml_nbytes(pointer) > 0
        )
        if not same:
            raise ModelError(
                "llama-cpp-python: lays its tensors out in another way; install the version that is pinned"
            )
        self._checked = True

    def _operation(self, number: int) -> str:
        known = self._operations.get(number)
        if known is None:
            known = self._operations[number] = self._ggml.ggml_op_name(number).decode()
        return known

    def _take(self, node: Any, kind: str) -> None:
        weight, x = node.src[0].contents, node.src[1].contents
        if x.type != 0:  # GGML_TYPE_F32
            raise ModelError(f"{weight.name.decode()}: its input is not float32")
        name, inputs = weight.name.decode(), _view(x, np.float32)
        if kind == "MUL_MAT":
            rows = inputs.reshape(-1, inputs.shape[-1])
            self.found.add(name, np.einsum("ij,ij->j", rows, rows)[None], np.array([len(rows)]))
            return
        experts = _view(node.src[2].contents, np.int32)[0, 0]  # (tokens, used)
        inputs = np.broadcast_to(inputs[0], (*experts.shape, inputs.shape[-1]))  # (tokens, used, columns)
        count = int(weight.ne[2])
        sums = np.zeros((count, inputs.shape[-1]), np.float64)
        np.add.at(sums, experts.reshape(-1), np.square(inputs.reshape(-1, inputs.shape[-1])))
        self.found.add(name, sums, np.bincount(experts.reshape(-1), minlength=count))


def _view(tensor: Any, dtype: Any) -> npt.NDArray[Any]:
    """See a host tensor as an array, its last axis being ggml's first; not contiguous ones as well."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    size = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + np.dtype(dtype).itemsize
    buffer = (ctypes.c_char * size).from_address(tensor.data)
    seen: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer, strides=strides)
    return seen


def weight_names(header: GgufHeader) -> list[str]:
    """List the matrices that products are made with: those of the blocks, and the output's."""
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    last = "token_embd.weight" if tied else "output.weight"
    return [
        t.name for t in header.tensors if t.name == last or (t.name.startswith("blk.") and t.name.endswith(".weight"))
    ]


def collect(
    model: Path,
    split: Split,
    out: Path,
    *,
    dataset: str,
    chunk: int = 512,
    chunks: int | None = None,
    threads: int = 1,
    advance: Advance = lambda _done, _all: None,
) -> Imatrix:
    """Make an importance matrix, or go on with one that was interrupted.

    Args:
        model: the GGUF; the less quantized, the better.
        split: gives the tokens of the calibration text.
        out: the file to be made; until it is whole, OUT.part has what is done.
        dataset: the text's name in the file.
        chunk: tokens that are evaluated at once, each chunk on its own.
        chunks: at most so many; by default all.
        threads: of the evaluation.
        advance: is told how many chunks are done, and how many there are.

    Raises:
        ImatrixError: the text is too short.
        ModelError: the model cannot be loaded or evaluated.
        OutputError: the file cannot be written.

    """
    header = read_model(model)
    mtp = memory.has_mtp(header)
    part = out.with_name(out.name + ".part")
    collector = Collector(weight_names(header))
    with (
        Model(model, load_mtp=mtp) as loaded,
        Context(
            loaded, n_ctx=chunk, n_batch=chunk, n_threads=threads, outputs=chunk, hidden=mtp, options=collector.options
        ) as trunk,
    ):
        ids = split(loaded)
        total = min(len(ids) // chunk, chunks or len(ids))
        if total == 0:
            raise ImatrixError(f"{dataset}: has {len(ids)} tokens, less than a chunk of {chunk}; give more text")
        collector.found = _begun(part, model, ids, dataset, chunk)
        head = None
        if mtp:
            head = Context(
                loaded,
                n_ctx=chunk,
                n_batch=chunk,
                n_threads=threads,
                mtp_of=trunk,
                outputs=OUTPUT_ROWS,
                options=collector.options,
            )
        try:
            for number in range(collector.found.chunks, total):
                _evaluate(trunk, head, ids[number * chunk : (number + 1) * chunk], collector)
                collector.found.chunks = number + 1
                advance(number + 1, total)
                if (number + 1) % SAVE_EVERY == 0 and number + 1 < total:
                    matrices.write(collector.found, part)
        except KeyboardInterrupt:
            if collector.found.chunks:
                matrices.write(collector.found, part)
            raise
        finally:
            if head is not None:
                head.close()
    matrices.write(collector.found, out)
    part.unlink(missing_ok=True)
    return collector.found


def _evaluate(trunk: Context, head: Context | None, ids: Sequence[int], collector: Collector) -> None:
    rows = min(OUTPUT_ROWS, len(ids))
    before = {name: (entry.sums.copy(), entry.counts.copy()) for name, entry in collector.found.entries.items()}
    try:
        trunk.clear()
        trunk.evaluate(ids, 0, outputs=rows)
        trunk.logits(-1)  # waits
        collector.check()
        if head is not None:
            head.clear()
            head.evaluate(ids[1:], 1, outputs=min(rows, len(ids) - 1), embd=trunk.hidden(len(ids))[:-1])
            head.logits(-1)
        collector.check()
    except BaseException:
        # half a chunk does not count
        collector.found.entries = {name: matrices.Entry(*values) for name, values in before.items()}
        collector.check()
        raise


def _begun(part: Path, model: Path, ids: Sequence[int], dataset: str, chunk: int) -> Imatrix:
    """Read what an interrupted run left, if it was of the same text, model and chunks."""
    text = hashlib.sha256(np.array(ids, np.int32).tobytes()).hexdigest()
    extra = {TEXT_KEY: text, MODEL_KEY: model_identity(model)}
    if part.exists():
        try:
            found = matrices.read(part)
        except ImatrixError:
            found = Imatrix()
        if found.extra == extra and found.chunk_size == chunk:
            return found
    return Imatrix(datasets=[dataset], chunk_size=chunk, extra=extra)
