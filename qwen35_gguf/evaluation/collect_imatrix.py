"""Collect an importance matrix: for each matmul of a model, the sums of squares of its inputs over a text.

llama.cpp calls back for every node of its graph (`cb_eval`); the inputs of matmuls with a weight tensor are summed. The
MTP head evaluates the same text, so that its tensors have entries as well.

Source: llama.cpp tools/imatrix/imatrix.cpp (collect_imatrix: what is summed).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qwen35_gguf.atomic_file import disk_errors
from qwen35_gguf.errors import ImatrixError, ModelError
from qwen35_gguf.evaluation.texts.tokenized import Split
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.quant import imatrix as matrices
from qwen35_gguf.quant.imatrix import Imatrix
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.eval_callback import EvalCallback, view
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.model_files import model_identity, read_model
from qwen35_gguf.runtime.planning import memory

OUTPUT_ROWS = 64  # of a chunk that are multiplied with the output matrix, which is as large as many layers
SAVE_EVERY = 16  # chunks
TEXT_KEY, MODEL_KEY = "qwen35.imatrix.text_sha256", "qwen35.imatrix.model"

Advance = Callable[[int, int], None]
# Nodes that add what a layer's matmuls give to the residual stream (llama.cpp src/models/qwen35.cpp, cb).
RESIDUALS = frozenset(("attn_residual", "l_out", "post_ffn", "mtp_attn_residual", "mtp_post_ffn"))


class Observer(Protocol):
    """Is shown the inputs of matmuls as they are computed, in the order of the graph."""

    def see_input(self, name: str, rows: Any, experts: Any, count: int) -> None:
        """Take the inputs (rows, columns) of the weights `name`; the expert of each row, or None; their number."""

    def see_residual(self, rows: Any) -> None:
        """Take the residual stream, (tokens, hidden), after something was added to it."""


class Collector:
    """Sums the squares of the inputs of matmuls with weights.

    Attributes:
        found: the sums so far.
        watch: the callback of llama.cpp.

    """

    def __init__(self, names: Sequence[str], observer: Observer | None = None) -> None:
        """Collect for the matmuls with these weight tensors, which `observer` is shown as well."""
        self._names = set(names)
        self._observer = observer
        self.found = Imatrix()
        self.watch = EvalCallback(self._wanted, self._take)

    def _wanted(self, kind: str, node: Any) -> bool:
        if kind == "ADD":
            return self._observer is not None and node.name.decode().partition("-")[0] in RESIDUALS
        return kind in ("MUL_MAT", "MUL_MAT_ID") and node.src[0].contents.name.decode() in self._names

    def _take(self, kind: str, node: Any) -> None:
        if kind == "ADD":
            if self._observer is not None:
                self._observer.see_residual(view(node, np.float32)[0, 0])
            return
        weight, x = node.src[0].contents, node.src[1].contents
        if x.type != 0:  # GGML_TYPE_F32
            raise ModelError(f"{weight.name.decode()}: its input is not float32")
        name, inputs = weight.name.decode(), view(x, np.float32)
        if kind == "MUL_MAT":
            rows = inputs.reshape(-1, inputs.shape[-1])
            self.found.add(name, np.einsum("ij,ij->j", rows, rows)[None], np.array([len(rows)]))
            if self._observer is not None:
                self._observer.see_input(name, rows, None, 1)
            return
        experts = view(node.src[2].contents, np.int32)[0, 0]  # (tokens, used)
        inputs = np.broadcast_to(inputs[0], (*experts.shape, inputs.shape[-1]))  # (tokens, used, columns)
        count = int(weight.ne[2])
        sums = np.zeros((count, inputs.shape[-1]), np.float64)
        np.add.at(sums, experts.reshape(-1), np.square(inputs.reshape(-1, inputs.shape[-1])))
        self.found.add(name, sums, np.bincount(experts.reshape(-1), minlength=count))
        if self._observer is not None:
            self._observer.see_input(name, inputs.reshape(-1, inputs.shape[-1]), experts.reshape(-1), count)


def weight_names(header: GgufHeader) -> list[str]:
    """List the matrices that are multiplied with: those of the blocks, and the output's."""
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    last = "token_embd.weight" if tied else "output.weight"
    return [
        t.name for t in header.tensors if t.name == last or (t.name.startswith("blk.") and t.name.endswith(".weight"))
    ]


def check_same_model(several: Sequence[Imatrix], model: Path) -> None:
    """Refuse matrices that could not be added to that of a model, before it is collected.

    Raises:
        ImatrixError: a matrix has none of its tensors, or one in another shape.
        ModelError: the file is not a model.

    """
    header = read_model(model)
    names = set(weight_names(header))
    shapes = {tensor.name: tensor.shape for tensor in header.tensors if tensor.name in names}
    for one in several:
        shared = [name for name in one.entries if name in shapes]
        other = [name for name in shared if one.entries[name].sums.shape != _sums_shape(shapes[name])]
        if other or not shared:
            what = f"{other[0]} has another shape there" if other else "it has none of its tensors"
            raise ImatrixError(f"{one.path}: is not of {model}: {what}; give one that was made of it")


def _sums_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0] if len(shape) > 2 else 1, shape[-1])


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
    """Collect an importance matrix, or resume an interrupted run.

    Args:
        model: the GGUF; the less quantized, the better.
        split: tokenizes the calibration text.
        out: the file to be written; until it is complete, OUT.part has the sums so far.
        dataset: name of the text in the file.
        chunk: tokens of a chunk; chunks are evaluated independently.
        chunks: number of chunks at most; by default all.
        threads: of the evaluation.
        advance: is called with the number of chunks that are done, and the number of all.

    Raises:
        ImatrixError: the text is too short.
        ModelError: the model cannot be loaded or evaluated.
        OutputError: the file cannot be written.

    """
    header = read_model(model)
    mtp = memory.has_mtp(header)
    part = out.with_name(out.name + ".part")
    collector = Collector(weight_names(header))
    spec = ContextSpec(chunk, n_batch=chunk, n_threads=threads)
    with (
        Model(model, ModelSpec(mtp=mtp)) as loaded,
        Context(loaded, replace(spec, n_outputs=chunk), hidden=mtp, eval_callback=collector.watch) as main,
    ):
        ids = split(loaded)
        total = min(len(ids) // chunk, chunks or len(ids))
        if total == 0:
            raise ImatrixError(f"{dataset}: has {len(ids)} tokens, less than a chunk of {chunk}; use a longer text")
        collector.found = _begun(part, model, ids, dataset, chunk)
        head = None
        if mtp:
            rows = replace(spec, n_outputs=OUTPUT_ROWS)
            head = Context(loaded, rows, mtp_of=main, eval_callback=collector.watch)
        try:
            for number in range(collector.found.chunks, total):
                evaluate_chunk(main, head, ids[number * chunk : (number + 1) * chunk], collector)
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
    matrices.write(collector.found, part)
    with disk_errors(out):
        part.replace(out)  # not written anew: until now it is what another run resumes from
    return collector.found


def evaluate_chunk(main: Context, head: Context | None, ids: Sequence[int], collector: Collector) -> None:
    """Evaluate a chunk with an empty context, by the main model and its MTP head; an incomplete one does not count."""
    rows = min(OUTPUT_ROWS, len(ids))
    before = {name: (entry.sums.copy(), entry.counts.copy()) for name, entry in collector.found.entries.items()}
    try:
        main.clear()
        main.evaluate(ids, 0, outputs=rows)
        main.logits(-1)  # waits
        collector.watch.check()
        if head is not None:
            head.clear()
            head.evaluate(ids[1:], 1, outputs=min(rows, len(ids) - 1), embd=main.hidden(len(ids))[:-1])
            head.logits(-1)
        collector.watch.check()
    except BaseException:
        # an incomplete chunk does not count
        collector.found.entries = {name: matrices.Entry(*values) for name, values in before.items()}
        collector.watch.check()
        raise


def _begun(part: Path, model: Path, ids: Sequence[int], dataset: str, chunk: int) -> Imatrix:
    """Read the sums of an interrupted run, if its text, model and chunks are the same."""
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
