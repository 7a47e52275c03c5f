"""What the two halves of a text say about an input: by how much its moments are shrunk off the diagonal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import map_data, tensor_data
from qwen35_gguf.quant import kernels
from qwen35_gguf.quant.rounding import held_out
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.moments import BLOCK, Entry

Float = npt.NDArray[np.float32]


def shrinking_of(header: GgufHeader, first: Entry, second: Entry, threads: int = 1) -> float | None:
    """Choose how much the moments of an input are shrunk, None where its halves cannot tell.

    Those of experts cannot, whose tokens are few, nor can a text of one chunk.

    Args:
        header: of the model.
        first: the sums over half of the chunks, of a matrix or its blocks.
        second: those over the others.
        threads: that round.

    """
    if len(first.sums) > 1 or not (first.counts.all() and second.counts.all()):
        return None
    columns = first.squares.shape[1]
    readers = [t for t in header.tensors if files.input_of(t.name) == first.name and t.shape[-1] == columns]
    mapped = map_data(header)
    rows = {
        tensor.name: kernels.dequantize(
            held_out.sample(tensor_data(header, tensor, mapped).reshape(tensor.shape[0], -1)), tensor.type, columns
        )
        for tensor in readers
    }
    return held_out.choose_shrinking(
        [_means(half, columns) for half in (first, second)],
        rows,
        dict.fromkeys(rows, Type.Q4_K if columns % BLOCK == 0 else Type.IQ4_NL),
        {tensor.name: tensor.shape[0] for tensor in readers},
        ((first.squares + second.squares)[0] / (first.counts + second.counts)[0]).astype(np.float32),
        threads,
    )


def _means(half: Entry, columns: int) -> list[Float]:
    """Return the mean moments, a matrix or its blocks, whose last may be smaller."""
    mean = half.sums[0] / np.float32(half.counts[0])
    if mean.ndim == 2:
        return [mean]
    last = columns - BLOCK * (len(mean) - 1)
    return [*mean[:-1], np.ascontiguousarray(mean[-1][:last, :last])]
