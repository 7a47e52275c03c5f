"""Rounding by second moments in a conversion: which tensors, from which file, and what the metadata records."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from qwen35_gguf.convert.checkpoint import Checkpoint
from qwen35_gguf.convert.tensor_plan import OutputTensor
from qwen35_gguf.errors import MomentsError
from qwen35_gguf.gguf_file.keyvalue import STRING, KeyValue
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.moments import Kind, Method, Moments
from qwen35_gguf.quant.rounding.round_rows import SHRINKING, TYPES, InputMoments, prepare

FILE_KEY, DIGEST_KEY = "quantize.rounding.file", "quantize.rounding.moments_sha256"
OUTPUT_NORM = "output_norm.weight"
Array = np.ndarray[Any, np.dtype[Any]]
PREPARED = 2  # inputs that are kept: matmuls that share one follow each other


@dataclass(frozen=True)
class Rounding:
    """How weights are rounded.

    Attributes:
        method: within 256 columns, across the row, or by moments of the model that is quantized up to each tensor.
        kind: of the moments: blocks, or whole matrices.
        moments: of the inputs.

    """

    method: Method
    kind: Kind
    moments: Moments
    _prepared: OrderedDict[tuple[str, int], list[InputMoments]] = field(default_factory=OrderedDict, repr=False)

    def check_model(self, checkpoint: Checkpoint, tensors: Sequence[OutputTensor]) -> None:
        """Refuse moments of another model, known by its last norm.

        Raises:
            MomentsError: they are of another one.

        """
        norm = next((tensor for tensor in tensors if tensor.name == OUTPUT_NORM), None)
        if norm is None:
            return
        (_, weights) = next(iter(norm.matrices(checkpoint)))
        if files.fingerprint(weights.reshape(-1)) != self.moments.provenance.fingerprint:
            raise MomentsError(f"{self.moments.path}: is of another model; collect moments of this one")

    def check_types(self, types: Mapping[str, GGMLQuantizationType]) -> None:
        """Refuse moments of a model that was quantized to other types than these.

        Raises:
            MomentsError: they are of another quantization.

        """
        if self.method != "sequential":
            return
        for name, type_ in self.moments.provenance.types:
            if name in types and types[name].name != type_:
                raise MomentsError(
                    f"{self.moments.path}: is of a model in other types ({name} is {type_} in it, {types[name].name} "
                    "here); collect moments for this one"
                )

    def shift(self, tensor: str, start: int, shape: tuple[int, ...]) -> Array | None:
        """Return what is added to rows of a tensor before they are rounded, float32, None if nothing.

        Args:
            tensor: the weights.
            start: the first row.
            shape: of the rows, (rows, columns).

        Raises:
            MomentsError: it is damaged, or of another model.

        """
        whole = self.moments.shift(tensor) if self.method == "sequential" else None
        if whole is None:
            return None
        found: Array = whole[start : start + shape[0]].astype(np.float32)
        if found.shape != shape or not np.isfinite(found).all():
            raise MomentsError(f"{self.moments.path}: {tensor} has a damaged shift; collect the moments again")
        return found

    def inputs(self, tensor: str, number: int, columns: int, type_: GGMLQuantizationType) -> list[InputMoments] | None:
        """Return the moments to round a matrix by, or None where it is quantized without.

        Args:
            tensor: the weights.
            number: of the expert; 0 in a tensor of one matrix.
            columns: of the weights.
            type_: that they get.

        Raises:
            MomentsError: the moments are damaged, or of another model.

        """
        if type_ not in TYPES or not self.moments.has(tensor):
            return None
        key = files.input_of(tensor), number
        found = self._prepared.get(key)
        if found is None:
            chosen = self.moments.shrinking(tensor)
            shrinking = SHRINKING if chosen is None else chosen
            matrices = self.moments.matrix(tensor, number, columns, self.kind)
            found = [prepare(one, shrinking=shrinking) for one in matrices]
            self._prepared[key] = found
            while len(self._prepared) > PREPARED:
                self._prepared.popitem(last=False)
        return found

    def is_importance(self, entries: Sequence[KeyValue]) -> bool:
        """Tell whether a file with this metadata has its importance matrix from these moments."""
        return any(kv.key == "quantize.imatrix.file" and kv.value == self.moments.path.name for kv in entries)

    def metadata(self) -> list[KeyValue]:
        """Record it in a file."""
        provenance = self.moments.provenance
        return [
            KeyValue.of("quantize.rounding.kind", self.method, STRING),
            KeyValue.of(FILE_KEY, self.moments.path.name, STRING),
            KeyValue.of(DIGEST_KEY, self.moments.digest, STRING),
            KeyValue.of("quantize.rounding.dataset", " + ".join(provenance.datasets), STRING),
            KeyValue.of("quantize.rounding.chunks_count", provenance.chunks, GGUFValueType.UINT32),
            KeyValue.of("quantize.rounding.text_sha256", provenance.text, STRING),
            KeyValue.of("quantize.rounding.token_effects", provenance.effects, GGUFValueType.BOOL),
        ]


def open_rounding(method: Method | None, moments: str | Path | None) -> Rounding | None:
    """Open the moments that a conversion rounds by.

    Raises:
        MomentsError: they are missing, damaged, or only blocks of what is needed.

    """
    if method is None and moments is None:
        return None
    if method is None or moments is None:
        raise MomentsError(
            "rounding needs a kind and moments: give --rounding block, full or sequential, and --moments FILE"
        )
    found = files.read(moments)
    kind = found.provenance.kind
    if (method == "sequential") != bool(found.provenance.types):
        made = "with" if found.provenance.types else "without"
        advice = "use --rounding sequential" if found.provenance.types else "collect them with `imatrix --sequential`"
        raise MomentsError(f"{moments}: were collected {made} --sequential; {advice}")
    if method == "full" and kind == "block":
        raise MomentsError(f"{moments}: has blocks only; use --rounding block, or collect with --moments full")
    return Rounding(method, kind if method == "sequential" else method, found)
