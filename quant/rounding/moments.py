"""Second moments of the inputs of matmuls: X^T X over a calibration text, whole or in blocks of 256 columns.

A GGUF file of its own: for each input `NAME.moments`, F32, (matrices, columns, columns) or (matrices, blocks, 256, 256)
whose last block is filled up with zeros; `NAME.in_sum2` and `NAME.counts`, F32, are those of an importance matrix,
which counts all tokens alike, where moments may weigh them. Matmuls that read one input share its moments, under the
name of the first. Sums add up: those of two texts are the sums of each. An embedding that is looked up only has what
the readers of its rows make of errors in them, in the same form (evaluation/sums/embedding_moments.py).

Moments of a model that is quantized up to each input (sequential_moments.py) also have `WEIGHT.shift`, BF16: what is
added to a weight tensor before it is rounded, so that it makes up for what the quantized layers before it do to inputs;
and `NAME.shrinking`, F32, (1, 1): by how much moments are to be shrunk off the diagonal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import ml_dtypes
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFValueType

from qwen35_gguf.errors import GgufError, MomentsError
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.gguf_file.keyvalue import ARRAY, STRING, KeyValue
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data
from qwen35_gguf.gguf_file.writer import GGUFStream
from qwen35_gguf.json_file import Kind as JsonKind
from qwen35_gguf.json_file import printable
from qwen35_gguf.quant.imatrix import Imatrix

Float = npt.NDArray[np.float32]
Kind = Literal["block", "full"]
Method = Literal["block", "full", "sequential"]  # of rounding by them
# How files of the project record it; empty: each block alone.
RECORDED: JsonKind[Method | Literal[""]] = JsonKind(
    "block, full or sequential", lambda value: value in ("", *get_args(Method))
)

BLOCK = 256
TYPE, KIND, FINGERPRINT = "general.type", "moments.kind", "moments.fingerprint"
DATASETS, TEXT = "moments.datasets", "moments.text_sha256"
CHUNKS, CHUNK_SIZE = "moments.chunk_count", "moments.chunk_size"
EFFECTS = "moments.token_effects"
TYPES = "moments.types"
SUMS, SQUARES, COUNTS, SHIFT, SHRINKING = ".moments", ".in_sum2", ".counts", ".shift", ".shrinking"
ENOUGH = 100  # tokens for each column: with fewer, moments say more about the text than about the model
# Matmuls of one layer that read the same input, by the kind that its moments are named after.
SHARED = {
    "attn_gate": "attn_qkv", "ssm_alpha": "attn_qkv", "ssm_beta": "attn_qkv", "attn_k": "attn_q", "attn_v": "attn_q",
    "ffn_up": "ffn_gate", "ffn_up_exps": "ffn_gate_exps", "ffn_up_shexp": "ffn_gate_shexp",
}  # fmt: skip


def input_of(name: str) -> str:
    """Name the moments of a weight tensor's input: blk.3.attn_k.weight reads that of blk.3.attn_q.weight."""
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk":
        parts[2] = SHARED.get(parts[2], parts[2])
    return ".".join(parts)


def fingerprint(output_norm: npt.NDArray[Any]) -> str:
    """Identify a model by the weights of its last norm, which no quantization changes: (hidden,) any float."""
    return hashlib.sha256(np.ascontiguousarray(output_norm, "<f4").tobytes()).hexdigest()


def listed_types(types: Mapping[str, GGMLQuantizationType]) -> tuple[tuple[str, str], ...]:
    """List weight tensors and the names of their types, as a provenance has them."""
    return tuple((name, type_.name) for name, type_ in sorted(types.items()))


def _split_type(line: str) -> tuple[str, str]:
    """Split an entry of TYPES, a tensor and its type with a space between them."""
    name, _, type_ = line.partition(" ")
    if not (name and type_):
        raise ValueError(f"{TYPES} has {printable(line)}, which names no tensor and type")
    return name, type_


def stored_shape(kind: Kind, matrices: int, columns: int) -> tuple[int, ...]:
    """Return the shape of the sums of an input."""
    if kind == "full":
        return matrices, columns, columns
    return matrices, -(-columns // BLOCK), BLOCK, BLOCK


@dataclass(frozen=True)
class Provenance:
    """What moments are of, and from which text.

    Attributes:
        kind: whole matrices, or blocks.
        fingerprint: of the model.
        text: SHA-256 of the tokens.
        datasets: names of the texts.
        chunks: that were evaluated.
        chunk_size: tokens of a chunk.
        effects: tokens count by how much errors at them matter; False: all alike.
        types: `listed_types` of the weights that inputs were quantized up to; empty: of the model as it is.

    """

    kind: Kind
    fingerprint: str
    text: str
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 512
    effects: bool = False
    types: tuple[tuple[str, str], ...] = ()

    def metadata(self) -> list[KeyValue]:
        """Write it down."""
        return [
            KeyValue.of(TYPE, "moments", STRING),
            KeyValue.of(KIND, self.kind, STRING),
            KeyValue.of(FINGERPRINT, self.fingerprint, STRING),
            KeyValue.of(TEXT, self.text, STRING),
            *([KeyValue.of(DATASETS, list(self.datasets), ARRAY, STRING)] if self.datasets else []),
            KeyValue.of(CHUNKS, self.chunks, GGUFValueType.UINT32),
            KeyValue.of(CHUNK_SIZE, self.chunk_size, GGUFValueType.UINT32),
            KeyValue.of(EFFECTS, self.effects, GGUFValueType.BOOL),
            *([KeyValue.of(TYPES, list(map(" ".join, self.types)), ARRAY, STRING)] if self.types else []),
        ]


class Entry(NamedTuple):
    """The sums of one input; see the top of this file for their shapes."""

    name: str
    sums: Float
    squares: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]


@dataclass
class Moments:
    """Moments in a file, mapped: nothing is read before it is asked for.

    Attributes:
        path: the file.
        provenance: what they are of.
        names: of the inputs.

    """

    path: Path
    provenance: Provenance
    names: tuple[str, ...]
    _header: GgufHeader = field(repr=False)
    _mapped: npt.NDArray[np.uint8] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """A SHA-256 that tells these moments from others, without reading all of them.

        Of what they are of, the tokens and sums of squares of each input, the first row of each of its matrices, and
        that of each shift.
        """
        made = hashlib.sha256(repr(self.provenance).encode())
        for name in self.names:
            made.update(name.encode())
            for values in (self.counts(name), self.squares(name), self.sums(name)[..., 0, :]):
                made.update(np.ascontiguousarray(values, np.float32).tobytes())
            shrinking = self.shrinking(name)
            made.update(b"" if shrinking is None else repr(shrinking).encode())
        for name in self.shifted:
            if (shift := self.shift(name)) is not None:
                made.update(name.encode() + shift[0].tobytes())
        return made.hexdigest()

    def counts(self, name: str) -> npt.NDArray[np.float64]:
        """Return the number of tokens that each matrix of an input saw, (matrices,)."""
        return self._array(name + COUNTS).reshape(-1).astype(np.float64)

    def squares(self, name: str) -> npt.NDArray[np.float64]:
        """Return the sums of squares of an input's columns, (matrices, columns)."""
        return self._array(name + SQUARES).astype(np.float64)

    def entry(self, name: str) -> Entry:
        """Return all of an input."""
        return Entry(name, self.sums(name), self.squares(name), self.counts(name))

    def sums(self, name: str) -> Float:
        """Return the sums of an input, of the shape that `stored_shape` gives, not copied."""
        return self._array(name + SUMS)

    def shrinking(self, name: str) -> float | None:
        """Return by how much the moments of a weight tensor's input are to be shrunk, None if it was not chosen.

        Raises:
            MomentsError: it is not from 0 to 1.

        """
        key = input_of(name) + SHRINKING
        if self._header.tensor(key) is None:
            return None
        found = float(self._array(key).flat[0])
        if not 0 <= found <= 1:
            raise MomentsError(f"{self.path}: {key} is {found}, not from 0 to 1; collect the moments again")
        return found

    @property
    def shifted(self) -> tuple[str, ...]:
        """The weight tensors that are shifted before they are rounded, sorted."""
        names = (tensor.name for tensor in self._header.tensors)
        return tuple(sorted(name.removesuffix(SHIFT) for name in names if name.endswith(SHIFT)))

    def shift(self, name: str) -> npt.NDArray[Any] | None:
        """Return what is added to a weight tensor before it is rounded, (rows, columns) bfloat16, None if nothing."""
        tensor = self._header.tensor(name + SHIFT)
        if tensor is None:
            return None
        found: npt.NDArray[Any] = tensor_data(self._header, tensor, self._mapped).view(ml_dtypes.bfloat16)
        return found.reshape(tensor.shape)

    def has(self, name: str) -> bool:
        """Tell whether there are moments of a weight tensor's input."""
        return input_of(name) in self.names

    def matrix(self, name: str, number: int, columns: int, kind: Kind | None = None) -> list[Float]:
        """Return the mean moments of a weight matrix's input, damped by nothing: one matrix, or its blocks.

        Args:
            name: of the weight tensor.
            number: of the expert; 0 in a tensor of one matrix.
            columns: of the weight matrix.
            kind: blocks, of whole matrices as well; by default the file's.

        Returns:
            One (columns, columns) float32, or (256, 256) for each block of columns, whose last may be smaller.

        Raises:
            MomentsError: they are of another model, non-finite, or indefinite.

        """
        key = input_of(name)
        sums, counts = self.sums(key), self.counts(key)
        matrices = len(counts)
        if sums.shape != stored_shape(self.provenance.kind, matrices, columns) or number >= matrices:
            found = " x ".join(map(str, sums.shape))
            raise MomentsError(
                f"{self.path}: {key} has moments {found}, the weights have {columns} columns; they are of another model"
            )
        one, tokens = sums[number].astype(np.float32), counts[number]
        if matrices > 1:  # few tokens come to an expert: as many as it has columns come from the experts in total
            share = float(columns) / max(1.0, float(counts.sum()))
            one, tokens = one + share * sums.sum(axis=0, dtype=np.float32), tokens + columns
        one = one / np.float32(max(1.0, tokens))
        if self.provenance.kind == "block":
            parts = list(one)
            last = columns % BLOCK
            parts[-1] = np.ascontiguousarray(parts[-1][:last, :last]) if last else parts[-1]
        elif kind == "block":
            starts = range(0, columns, BLOCK)
            parts = [np.ascontiguousarray(one[i : i + BLOCK, i : i + BLOCK]) for i in starts]
        else:
            parts = [one]
        for matrix in parts:
            _check_matrix(matrix, f"{self.path}: {key}")
        return parts

    def importance(self, weights: Iterable[str]) -> Imatrix:
        """Return the importance matrix of these weight tensors, of those whose input has moments."""
        found = Imatrix(
            datasets=list(self.provenance.datasets),
            chunks=self.provenance.chunks,
            chunk_size=self.provenance.chunk_size,
            path=self.path,
            sha256=hashlib.sha256(repr(self.provenance).encode()).hexdigest(),
        )
        for name in filter(self.has, weights):
            found.add(name, self.squares(input_of(name)), self.counts(input_of(name)))
        return found

    def too_few(self) -> tuple[str, float] | None:
        """Return the widest input with fewer than ENOUGH tokens for each of its columns, and how many it has."""
        worst = None
        for name in self.names:
            sums = self.sums(name)
            columns = sums.shape[1] if self.provenance.kind == "full" else BLOCK
            each = float(self.counts(name).mean()) / columns
            if each < ENOUGH and (worst is None or each < worst[1]):
                worst = name, each
        return worst

    def _array(self, name: str) -> Float:
        tensor = self._header.tensor(name)
        if tensor is None:
            raise MomentsError(f"{self.path}: has no {name}; collect the moments again")
        if not tensor.nbytes:
            raise MomentsError(f"{self.path}: {name}: has no values; collect the moments again")
        found: Float = tensor_data(self._header, tensor, self._mapped).view("<f4").reshape(tensor.shape)
        return found


def _check_matrix(matrix: Float, what: str) -> None:
    """Refuse what cannot be second moments. Two columns may not correlate by more than themselves."""
    if not np.isfinite(matrix).all():
        raise MomentsError(f"{what}: has non-finite moments; collect them again")
    diagonal = np.diagonal(matrix)
    limit = np.sqrt(np.maximum(diagonal, 0))
    slack = 1e-3 * float(limit.max(initial=0.0)) ** 2
    if (diagonal < 0).any() or (np.abs(matrix) > np.outer(limit, limit) * 1.001 + slack).any():
        raise MomentsError(f"{what}: has indefinite moments; collect them again")
    if not np.allclose(matrix, matrix.T, rtol=1e-3, atol=slack):
        raise MomentsError(f"{what}: has moments that are not symmetric; collect them again")


def read(path: str | Path) -> Moments:
    """Open a file of moments.

    Raises:
        MomentsError: it is missing, damaged, or not a file of moments.

    """
    path = Path(path)
    try:
        header = read_header(path)
        if header.value(TYPE) != "moments" or header.value(KIND) not in ("block", "full"):
            raise ValueError("general.type is not moments")
        provenance = Provenance(
            header.value(KIND),
            str(header.value(FINGERPRINT, "")),
            str(header.value(TEXT, "")),
            tuple(str(name) for name in header.value(DATASETS, [])),
            int(header.value(CHUNKS, 0)),
            int(header.value(CHUNK_SIZE, 0)),
            bool(header.value(EFFECTS, False)),
            tuple(_split_type(str(line)) for line in header.value(TYPES, [])),
        )
        known = {tensor.name for tensor in header.tensors}
        for tensor in header.tensors:
            wanted = GGMLQuantizationType.BF16 if tensor.name.endswith(SHIFT) else GGMLQuantizationType.F32
            if tensor.type != wanted:
                raise ValueError(f"{printable(tensor.name)} is {tensor.type.name}, not {wanted.name}")
        names = tuple(name.removesuffix(SUMS) for name in known if name.endswith(SUMS))
        if not names or any(name + suffix not in known for name in names for suffix in (SQUARES, COUNTS)):
            raise ValueError("it has no entries, or counts are missing")
        return Moments(path, provenance, tuple(sorted(names)), header, map_data(header))
    except (GgufError, ValueError, TypeError, KeyError) as error:
        raise MomentsError(
            f"{path}: is missing, damaged, or not a file of moments ({error}); make it with `qwen35 imatrix --moments`"
        ) from None


def write(
    path: Path,
    provenance: Provenance,
    widths: dict[str, tuple[tuple[int, ...], int]],
    entries: Iterable[Entry],
    shifts: Mapping[str, npt.NDArray[Any]] = MappingProxyType({}),
    shrinkings: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Write moments; the file appears whole or not at all.

    Args:
        path: the file, replaced if there is one.
        provenance: what they are of.
        widths: shape of the sums and number of columns, by name, in the order of the entries.
        entries: are written one after the other, so that they need not fit into memory together.
        shifts: of weight tensors, (rows, columns) bfloat16.
        shrinkings: of inputs.

    Raises:
        OutputError: it cannot be written.

    """
    infos = []
    for name, (shape, columns) in widths.items():
        infos.append(TensorInfo(name + SUMS, shape, GGMLQuantizationType.F32))
        infos.append(TensorInfo(name + SQUARES, (shape[0], columns), GGMLQuantizationType.F32))
        infos.append(TensorInfo(name + COUNTS, (shape[0], 1), GGMLQuantizationType.F32))
    infos += [TensorInfo(name + SHIFT, shift.shape, GGMLQuantizationType.BF16) for name, shift in shifts.items()]
    infos += [TensorInfo(name + SHRINKING, (1, 1), GGMLQuantizationType.F32) for name in shrinkings]
    with GGUFStream(path, infos, force=True) as stream:
        stream.write_header(provenance.metadata())
        for entry in entries:
            stream.write(np.ascontiguousarray(entry.sums, np.float32))
            stream.write(entry.squares.astype(np.float32))
            stream.write(entry.counts.astype(np.float32)[:, None])
        for shift in shifts.values():
            stream.write(np.ascontiguousarray(shift).view(np.uint8))
        for shrinking in shrinkings.values():
            stream.write(np.full((1, 1), shrinking, np.float32))
        stream.finish()
        stream.publish()


def widths_of(moments: Moments) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return what `write` must know beforehand."""
    return {name: (moments.sums(name).shape, moments.squares(name).shape[1]) for name in moments.names}
