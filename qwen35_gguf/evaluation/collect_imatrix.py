"""The importance of a model's weights: sums of squares of what goes into each matrix product, over a text.

llama.cpp tells of every node of its graph (`cb_eval`); of products with a weight tensor the inputs are looked at. The
MTP head is run over the same text, so that its tensors have entries as well.

Source: llama.cpp tools/imatrix/imatrix.cpp (collect_imatrix: what is summed).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_gguf.atomic_file import disk_errors
from qwen35_gguf.errors import ImatrixError, ModelError
from qwen35_gguf.evaluation.texts.tokenized import Split
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.quant import imatrix as matrices
from qwen35_gguf.quant.imatrix import Imatrix
from qwen35_gguf.runtime.engine.prefix_cache import model_identity
from qwen35_gguf.runtime.llama.eval_callback import Watch, view
from qwen35_gguf.runtime.llama.library import Context, Model
from qwen35_gguf.runtime.model_files import read_model
from qwen35_gguf.runtime.planning import memory

OUTPUT_ROWS = 64  # of a chunk go through the output matrix, which is as large as many layers together
SAVE_EVERY = 16  # chunks
TEXT_KEY, MODEL_KEY = "qwen35.imatrix.text_sha256", "qwen35.imatrix.model"

Advance = Callable[[int, int], None]


class Collector:
    """Sums squares of what goes into products with weights.

    Attributes:
        found: the sums so far.
        watch: what llama.cpp calls.

    """

    def __init__(self, names: Sequence[str]) -> None:
        """Look at products with these weight tensors."""
        self._names = set(names)
        self.found = Imatrix()
        self.watch = Watch(self._wanted, self._take)

    def _wanted(self, kind: str, node: Any) -> bool:
        return kind in ("MUL_MAT", "MUL_MAT_ID") and node.src[0].contents.name.decode() in self._names

    def _take(self, kind: str, node: Any) -> None:
        weight, x = node.src[0].contents, node.src[1].contents
        if x.type != 0:  # GGML_TYPE_F32
            raise ModelError(f"{weight.name.decode()}: its input is not float32")
        name, inputs = weight.name.decode(), view(x, np.float32)
        if kind == "MUL_MAT":
            rows = inputs.reshape(-1, inputs.shape[-1])
            self.found.add(name, np.einsum("ij,ij->j", rows, rows)[None], np.array([len(rows)]))
            return
        experts = view(node.src[2].contents, np.int32)[0, 0]  # (tokens, used)
        inputs = np.broadcast_to(inputs[0], (*experts.shape, inputs.shape[-1]))  # (tokens, used, columns)
        count = int(weight.ne[2])
        sums = np.zeros((count, inputs.shape[-1]), np.float64)
        np.add.at(sums, experts.reshape(-1), np.square(inputs.reshape(-1, inputs.shape[-1])))
        self.found.add(name, sums, np.bincount(experts.reshape(-1), minlength=count))


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
            loaded,
            n_ctx=chunk,
            n_batch=chunk,
            n_threads=threads,
            outputs=chunk,
            hidden=mtp,
            options=collector.watch.options,
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
                options=collector.watch.options,
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
    matrices.write(collector.found, part)
    with disk_errors(out):
        part.replace(out)  # not written anew: until now it is what another run resumes from
    return collector.found


def _evaluate(trunk: Context, head: Context | None, ids: Sequence[int], collector: Collector) -> None:
    rows = min(OUTPUT_ROWS, len(ids))
    before = {name: (entry.sums.copy(), entry.counts.copy()) for name, entry in collector.found.entries.items()}
    try:
        trunk.clear()
        trunk.evaluate(ids, 0, outputs=rows)
        trunk.logits(-1)  # waits
        collector.watch.check()
        if head is not None:
            head.clear()
            head.evaluate(ids[1:], 1, outputs=min(rows, len(ids) - 1), embd=trunk.hidden(len(ids))[:-1])
            head.logits(-1)
        collector.watch.check()
    except BaseException:
        # half a chunk does not count
        collector.found.entries = {name: matrices.Entry(*values) for name, values in before.items()}
        collector.watch.check()
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
