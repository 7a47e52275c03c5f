"""Evaluate one layer of a model over the residual stream of a text, and see what its matmuls are given.

The layer is in a GGUF of its own (layer_slice.py), whose weights can be overwritten; an evaluation ends as soon as
everything that was asked for is there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.evaluation.collect_imatrix import is_residual
from qwen35_gguf.evaluation.layer_slice import name_in_slice
from qwen35_gguf.evaluation.sensitivity import locate
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.eval_callback import EvalCallback, view
from qwen35_gguf.runtime.llama.model import Model, ModelSpec

Float = npt.NDArray[np.float32]

SECTIONS = 4  # of a position
STREAMS = 2  # of a layer: after attention or gated delta net, and after the feed-forward network


class Enough(Exception):  # noqa: N818 (no error: it ends an evaluation)
    """All that was asked for is there."""


class _Watch:
    """Keeps the inputs of some matmuls, and the residual stream after something was added to it.

    Whose input a node is shows only at the matmul, when that is computed. By the names of the nodes, which all
    evaluations have alike, the next one ends before it.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Float] = {}
        self.streams: list[Float] = []
        self._nodes: dict[str, set[int]] = {}  # the addresses of the nodes of each name
        self._readers: dict[str, str] = {}  # the matmul that reads the only node of a name
        self._wanted: frozenset[str] = frozenset()
        self._count = 0
        self.callback = EvalCallback(self._is_wanted, self._take)

    def begin(self, wanted: frozenset[str], streams: int) -> None:
        self.inputs, self.streams = {}, []
        self._wanted, self._count = wanted, streams

    def _is_wanted(self, kind: str, node: Any) -> bool:
        name = node.name.decode()
        self._nodes.setdefault(name, set()).add(ctypes.addressof(node))
        if self._readers.get(name) in self._missing():
            return True
        if kind == "ADD":
            return is_residual(kind, node)
        return kind == "MUL_MAT" and node.src[0].contents.name.decode() in self._missing()

    def _take(self, kind: str, node: Any) -> None:
        reader = self._readers.get(node.name.decode())
        if reader in self._missing():
            self._keep(reader, node)
        elif kind == "ADD":
            self.streams.append(view(node, np.float32)[0, 0].copy())
        else:
            weight, rows = (node.src[number].contents for number in range(2))
            self._keep(weight.name.decode(), rows)
            if len(self._nodes.get(rows.name.decode(), ())) == 1:
                self._readers[rows.name.decode()] = weight.name.decode()
        if len(self.streams) >= self._count and len(self.inputs) == len(self._wanted):
            raise Enough

    def _missing(self) -> frozenset[str]:
        return self._wanted - self.inputs.keys()

    def _keep(self, name: str, node: Any) -> None:
        rows = view(node, np.float32)
        self.inputs[name] = rows.reshape(-1, rows.shape[-1]).copy()


class LayerInputs:
    """A layer that is loaded to be evaluated; close it.

    Attributes:
        addresses: of its weights, by their names in the model.

    """

    def __init__(self, slice_file: Path, tensors: Sequence[str], chunk: int, threads: int) -> None:
        """Load the file of a layer.

        Args:
            slice_file: made by `write_slice`.
            tensors: the matrices whose weights are to be overwritten, as the model names them.
            chunk: rows of one evaluation.
            threads: of the evaluation.

        Raises:
            ModelError: it cannot be loaded.

        """
        self._model = Model(slice_file, ModelSpec(mmap=False, repack=False))
        found = locate(self._model, list(range(8)), [name_in_slice(name) for name in tensors], mtp=False, threads=1)
        self.addresses = {name: found[name_in_slice(name)] for name in tensors if name_in_slice(name) in found}
        self._watch = _Watch()
        spec = ContextSpec(chunk, n_batch=chunk, n_threads=threads, n_outputs=1)
        self._context = Context(self._model, spec, eval_callback=self._watch.callback)
        self._positions = np.tile(np.arange(chunk, dtype=np.int32), (SECTIONS, 1))
        self._positions[-1] = 0

    def __enter__(self) -> LayerInputs:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()
        self._model.close()

    def evaluate(
        self, stream: Float, inputs: Sequence[str] = (), streams: int = 0
    ) -> tuple[dict[str, Float], list[Float]]:
        """Evaluate the layer on a chunk of the stream, (chunk, hidden), with an empty context.

        Args:
            stream: what goes into the layer.
            inputs: weight tensors, as the model names them, whose inputs are wanted.
            streams: 1 if the one within the layer is wanted, STREAMS if that after it as well, 0 for none.

        Returns:
            The inputs (chunk, columns) by name, and the streams (chunk, hidden).

        Raises:
            ModelError: llama.cpp fails.

        """
        names = {name_in_slice(name): name for name in inputs}
        self._watch.begin(frozenset(names), streams)
        self._context.clear()
        with suppress(Enough):
            self._context.evaluate_embeddings(stream, self._positions[:, : len(stream)], outputs=1)
        return {names[name]: rows for name, rows in self._watch.inputs.items()}, self._watch.streams
