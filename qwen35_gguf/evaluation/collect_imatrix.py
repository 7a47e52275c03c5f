"""Collect an importance matrix: for each matmul of a model, the sums of squares of its inputs over a text.

llama.cpp calls back for every node of its graph (`cb_eval`); the inputs of matmuls with a weight tensor are summed. The
MTP head evaluates the same text, so that its tensors have entries as well.

Source: llama.cpp tools/imatrix/imatrix.cpp (collect_imatrix: what is summed).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qwen35_gguf.atomic_file import disk_errors, move
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


class SquareSums:
    """Sums the squares of inputs: what an importance matrix holds.

    Attributes:
        found: the sums so far.

    """

    def __init__(self, found: Imatrix) -> None:
        """Add to an importance matrix."""
        self.found = found

    def see_input(self, name: str, rows: Any, experts: Any, count: int) -> None:
        """Add the squares of these inputs, and count them."""
        if experts is None:
            self.found.add(name, np.einsum("ij,ij->j", rows, rows)[None], np.array([len(rows)]))
            return
        sums = np.zeros((count, rows.shape[-1]), np.float64)
        np.add.at(sums, experts, np.square(rows))
        self.found.add(name, sums, np.bincount(experts, minlength=count))

    def see_residual(self, rows: Any) -> None:
        """Do nothing: every token counts alike."""


def is_residual(kind: str, node: Any) -> bool:
    """Tell whether a node of the graph is the residual stream after something was added to it."""
    return kind == "ADD" and node.name.decode().partition("-")[0] in RESIDUALS


def watch_inputs(names: Sequence[str], observer: Observer, *, residuals: bool = False) -> EvalCallback:
    """Return a callback of llama.cpp that shows an observer the inputs of the matmuls with these weight tensors.

    Args:
        names: of the weight tensors.
        observer: is shown the inputs.
        residuals: show the residual stream as well; llama.cpp computes these nodes one by one, too.

    """
    weights = set(names)

    def wanted(kind: str, node: Any) -> bool:
        if kind == "ADD":
            return residuals and is_residual(kind, node)
        return kind in ("MUL_MAT", "MUL_MAT_ID") and node.src[0].contents.name.decode() in weights

    def take(kind: str, node: Any) -> None:
        if kind == "ADD":
            observer.see_residual(view(node, np.float32)[0, 0])
            return
        weight, x = node.src[0].contents, node.src[1].contents
        name = weight.name.decode()
        if x.type != 0:  # GGML_TYPE_F32
            raise ModelError(f"{name}: its input is not float32")
        inputs = view(x, np.float32)
        if kind == "MUL_MAT":
            observer.see_input(name, inputs.reshape(-1, inputs.shape[-1]), None, 1)
            return
        experts = view(node.src[2].contents, np.int32)[0, 0]  # (tokens, used)
        rows = np.broadcast_to(inputs[0], (*experts.shape, inputs.shape[-1]))  # (tokens, used, columns)
        observer.see_input(name, rows.reshape(-1, rows.shape[-1]), experts.reshape(-1), int(weight.ne[2]))

    return EvalCallback(wanted, take)


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
    with Model(model, ModelSpec(mtp=mtp)) as loaded:
        ids = split(loaded)
        total = count_chunks(ids, chunk, chunks, dataset)
        sums = SquareSums(_begun(part, model, ids, dataset, chunk))
        watch = watch_inputs(weight_names(header), sums)
        with chunk_contexts(loaded, chunk, threads, watch, mtp=mtp) as evaluate:
            try:
                for number in range(sums.found.chunks, total):
                    _add_chunk(sums, evaluate, ids[number * chunk : (number + 1) * chunk])
                    sums.found.chunks = number + 1
                    advance(number + 1, total)
                    if (number + 1) % SAVE_EVERY == 0 and number + 1 < total:
                        matrices.write(sums.found, part)
            except KeyboardInterrupt:
                if sums.found.chunks:
                    matrices.write(sums.found, part)
                raise
    matrices.write(sums.found, part)
    with disk_errors(out):
        move(part, out)  # not written anew: until now it is what another run resumes from
    return sums.found


def count_chunks(ids: Sequence[int], chunk: int, chunks: int | None, dataset: str) -> int:
    """Return how many chunks of a text are evaluated: at most `chunks`.

    Raises:
        ImatrixError: not even one.

    """
    total = min(len(ids) // chunk, chunks or len(ids))
    if total == 0:
        raise ImatrixError(f"{dataset}: has {len(ids)} tokens, less than a chunk of {chunk}; use a longer text")
    return total


def text_digest(ids: Sequence[int]) -> str:
    """Return the SHA-256 of the token ids of a text, in hexadecimal."""
    return hashlib.sha256(np.array(ids, np.int32).tobytes()).hexdigest()


@contextmanager
def chunk_contexts(
    model: Model, chunk: int, threads: int, watch: EvalCallback, *, mtp: bool
) -> Iterator[Callable[[Sequence[int]], None]]:
    """Give a function that evaluates a chunk with an empty context, by the main model and its MTP head."""
    spec = ContextSpec(chunk, n_batch=chunk, n_threads=threads)
    with ExitStack() as stack:
        main = stack.enter_context(Context(model, replace(spec, n_outputs=chunk), hidden=mtp, eval_callback=watch))
        head = None
        if mtp:
            last = replace(spec, n_outputs=OUTPUT_ROWS)
            head = stack.enter_context(Context(model, last, mtp_of=main, eval_callback=watch))

        def evaluate(ids: Sequence[int]) -> None:
            rows = min(OUTPUT_ROWS, len(ids))
            main.clear()
            main.evaluate(ids, 0, outputs=rows)
            main.logits(-1)  # waits
            if head is not None:
                head.clear()
                head.evaluate(ids[1:], 1, outputs=min(rows, len(ids) - 1), embd=main.hidden(len(ids))[:-1])
                head.logits(-1)

        yield evaluate


def _add_chunk(sums: SquareSums, evaluate: Callable[[Sequence[int]], None], ids: Sequence[int]) -> None:
    """Evaluate a chunk; an incomplete one does not count."""
    before = {name: (entry.sums.copy(), entry.counts.copy()) for name, entry in sums.found.entries.items()}
    try:
        evaluate(ids)
    except BaseException:
        sums.found.entries = {name: matrices.Entry(*values) for name, values in before.items()}
        raise


def _begun(part: Path, model: Path, ids: Sequence[int], dataset: str, chunk: int) -> Imatrix:
    """Read the sums of an interrupted run, if its text, model and chunks are the same."""
    extra = {TEXT_KEY: text_digest(ids), MODEL_KEY: model_identity(model)}
    if part.exists():
        try:
            found = matrices.read(part)
        except ImatrixError:
            found = Imatrix()
        if found.extra == extra and found.chunk_size == chunk:
            return found
    return Imatrix(datasets=[dataset], chunk_size=chunk, extra=extra)
