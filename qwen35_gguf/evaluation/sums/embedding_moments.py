"""Moments of an embedding that is looked up only: what reads the residual stream says which errors in it matter.

Its rows have no inputs to sum. But an error e in a row is in the residual stream, and a matrix W behind an RMSNorm with
weights g answers with W diag(g) e / r, where r is the root mean square of the stream. In relation to what W computes of
inputs that have no direction, and over all matrices, the sum of squares is eT S e,

    S = sum over W of  rows(W) mean(1 / r^2) A / trace(A),   A = diag(g) WT W diag(g).

Of experts, A is that of all, and rows those of the ones that a token uses. The direction of the stream itself, which a
norm removes, is one of many, and not taken out. Streams grow: usually only the first layer counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qwen35_gguf.evaluation.collect_imatrix import chunk_contexts, watch_inputs
from qwen35_gguf.evaluation.sums.moment_sums import add_products, mean_squares
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.gguf_file.reader import map_data, tensor_data
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding.moments import Entry, Kind, stored_shape
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.model_files import require_tensor
from qwen35_gguf.runtime.planning import memory

Float = npt.NDArray[np.float32]

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
SHRINKING = 0.0  # of these moments, in which no text is by chance
CHUNKS = 8  # of the text, that the sizes of streams are measured on
LEAST = 0.01  # of the largest mean(1 / r^2): what reads a stream that is larger is left out
SLAB = 1 << 22  # weights that are read in one step
# What reads the stream behind each norm of a layer.
READERS = {
    "attn_norm": ("attn_qkv", "attn_gate", "ssm_alpha", "ssm_beta", "attn_q", "attn_k", "attn_v"),
    "post_attention_norm": (
        "ffn_gate", "ffn_up", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_gate_shexp", "ffn_up_shexp",
    ),
}  # fmt: skip


class Reader(NamedTuple):
    """A matrix that reads the residual stream, or a tensor of experts; the weights of the norm before it."""

    weights: TensorInfo
    norm: Float


def is_looked_up_only(header: GgufHeader) -> bool:
    """Tell whether a model's embedding is not its output matrix as well."""
    return header.tensor(EMBEDDING) is not None and header.tensor(OUTPUT) is not None


def collect(model: Model, header: GgufHeader, ids: Sequence[int], chunk: int, kind: Kind, threads: int = 1) -> Entry:
    """Collect the moments of an embedding.

    Args:
        model: loaded from the file.
        header: of the file.
        ids: tokens of the text, in chunks of `chunk`; streams are measured on the first CHUNKS of them.
        chunk: tokens of a chunk.
        kind: blocks of 256 columns, or the whole matrix.
        threads: of the evaluation.

    Returns:
        Sums that count as many tokens as the text has, so that those of two texts add up.

    Raises:
        ModelError: the model cannot be evaluated.

    """
    weights = inverse_squares(model, header, ids[: CHUNKS * chunk], chunk, threads)
    return form(header, weights, len(ids), kind)


def inverse_squares(model: Model, header: GgufHeader, ids: Sequence[int], chunk: int, threads: int = 1) -> list[float]:
    """Return the mean of 1 / r^2 before each norm of the main layers, in the order of the graph."""
    sizes = _Sizes()
    for start in range(0, len(ids), chunk):
        sizes.add(0, _rows(header, ids[start : start + chunk]))
    with chunk_contexts(model, chunk, threads, watch_inputs([], sizes, residuals=True), mtp=False) as evaluate:
        for start in range(0, len(ids), chunk):
            sizes.place = 0
            evaluate(ids[start : start + chunk])
    return [total / count for total, count in sizes.found][: 2 * memory.main_layers(header)]


class _Sizes:
    """Sums 1 / r^2 of the stream, at each place where the graph has it."""

    def __init__(self) -> None:
        self.found: list[tuple[float, int]] = []
        self.place = 0

    def see_input(self, name: str, rows: Any, experts: Any, count: int) -> None:
        """Do nothing: only the stream counts."""

    def see_residual(self, rows: Any) -> None:
        """Take the stream after something was added to it, (tokens, hidden)."""
        self.place += 1
        self.add(self.place, rows)

    def add(self, place: int, rows: Float) -> None:
        """Add tokens."""
        while len(self.found) <= place:
            self.found.append((0.0, 0))
        total, count = self.found[place]
        self.found[place] = total + float((1 / mean_squares(rows)).sum(dtype=np.float64)), count + len(rows)


def _rows(header: GgufHeader, ids: Sequence[int]) -> Float:
    """Return rows of the embedding, (ids, hidden)."""
    tensor = require_tensor(header, EMBEDDING)
    data = tensor_data(header, tensor, map_data(header))
    return kernels.dequantize(np.ascontiguousarray(data[np.array(ids)]), tensor.type, tensor.shape[-1])


def form(header: GgufHeader, weights: Sequence[float], tokens: int, kind: Kind) -> Entry:
    """Return S, see the top of this file, times the tokens of a text.

    Args:
        header: of the model.
        weights: mean of 1 / r^2 before each norm of the main layers, two for a layer.
        tokens: of the text.
        kind: the blocks of 256 columns on its diagonal, or all of it.

    """
    hidden = require_tensor(header, EMBEDDING).shape[-1]
    total = np.zeros(stored_shape(kind, 1, hidden), np.float32)
    used = int(header.value(f"{header.architecture}.expert_used_count", 1))
    for number, weight in enumerate(weights):
        if weight < LEAST * max(weights):
            continue
        for reader in _readers(header, number // 2, list(READERS)[number % 2]):
            *experts, rows, _ = reader.weights.shape
            products, trace = _products(header, reader, total.shape)
            if trace > 0:
                total += np.float32(tokens * weight * rows * (used if experts else 1) / trace) * products
    blocks = [total[0]] if kind == "full" else list(total[0])
    diagonal = np.concatenate([np.diagonal(one) for one in blocks])[:hidden]
    return Entry(EMBEDDING, total, diagonal[None].astype(np.float64), np.array([float(tokens)]))


def _readers(header: GgufHeader, layer: int, norm: str) -> Iterator[Reader]:
    """Yield what reads the stream behind a norm of a layer."""
    tensor = require_tensor(header, f"blk.{layer}.{norm}.weight")
    scale = tensor_data(header, tensor, map_data(header)).view(np.float32).reshape(-1)
    for kind in READERS[norm]:
        found = header.tensor(f"blk.{layer}.{kind}.weight")
        if found is not None and found.shape[-1] == len(scale):
            yield Reader(found, scale)


def _products(header: GgufHeader, reader: Reader, shape: tuple[int, ...]) -> tuple[Float, float]:
    """Return A, of experts their sum, in the shape of the sums, and its trace."""
    tensor, columns = reader.weights, reader.weights.shape[-1]
    data = tensor_data(header, tensor, map_data(header))
    total, trace = np.zeros(shape[1:], np.float32), 0.0
    step = max(1, SLAB // columns)
    for start in range(0, len(data), step):
        rows = kernels.dequantize(data[start : start + step], tensor.type, columns) * reader.norm
        add_products(total, rows)
        trace += float(np.vdot(rows, rows))
    return total, trace
