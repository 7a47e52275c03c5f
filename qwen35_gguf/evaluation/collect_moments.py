"""Collect second moments: for each matmul of a model, X^T X of its inputs over a text (see quant/rounding/moments.py).

Groups of inputs are collected one after the other, as many as fit into memory, each in a pass over the text. A group
that is complete is in a file of its own, which an interrupted run resumes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import ModelError, MomentsError
from qwen35_gguf.evaluation import token_effects
from qwen35_gguf.evaluation.collect_imatrix import (
    SAVE_EVERY,
    Advance,
    chunk_contexts,
    count_chunks,
    text_digest,
    watch_inputs,
    weight_names,
)
from qwen35_gguf.evaluation.texts.tokenized import Split
from qwen35_gguf.evaluation.token_effects import TokenEffects
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import map_data, tensor_data
from qwen35_gguf.quant import tensor_types
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.moments import BLOCK, Entry, Kind, Moments, Provenance
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.model_files import read_model
from qwen35_gguf.runtime.planning import memory

Float = npt.NDArray[np.float32]

OUTPUT_NORM = "output_norm.weight"
WRITERS = frozenset(("attn_output", "ssm_out", "ffn_down", "ffn_down_exps", "ffn_down_shexp"))
LEAST_STREAM = 1e-12  # mean square
SMALLEST = 32  # columns: no type with blocks has fewer


@dataclass(frozen=True)
class Text:
    """What is evaluated: token ids in chunks, and what the text is called."""

    ids: Sequence[int]
    chunk: int
    chunks: int
    dataset: str


class Sums:
    """The sums of a group of inputs.

    Tokens count by their effect (token_effects.py): in the layers of the main model by that of the residual stream, in
    the output matrix and the MTP head by that of the logits. What a matmul writes into the residual stream counts in
    relation to the stream as well: the next norm divides by its size. So a token of such a matmul is weighted by the
    inverse mean square of the stream that it was added to.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], widths: dict[str, int], layers: int, used: int) -> None:
        """Begin with zeros.

        Args:
            shapes: of the sums, as `files.stored_shape` gives them.
            widths: numbers of columns.
            layers: of the main model.
            used: experts of each token.

        """
        self._used = used
        self._layers = {f"blk.{layer}." for layer in range(layers)}
        self.sums = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self.squares = {name: np.zeros((shape[0], widths[name]), np.float64) for name, shape in shapes.items()}
        self.counts = {name: np.zeros(shape[0], np.float64) for name, shape in shapes.items()}
        self._waiting: list[tuple[str, Float, Any]] = []
        self._effects: TokenEffects | None = None

    def begin_chunk(self, effects: TokenEffects | None) -> None:
        """Take what the tokens of the next chunk count; None: all alike."""
        self._effects = effects

    def see_input(self, name: str, rows: Any, experts: Any, count: int) -> None:
        """Add the inputs of a matmul: (rows, columns), and the expert that each goes to, if there are any."""
        if name not in self.sums:
            return
        wide = np.array(rows, np.float32)
        if experts is None:
            self.squares[name][0] += np.einsum("ij,ij->j", wide, wide)
            self.counts[name][0] += len(wide)
        else:
            np.add.at(self.squares[name], experts, np.square(wide))
            self.counts[name] += np.bincount(experts, minlength=count)
        if name.split(".")[-2] in WRITERS:
            self._waiting.append((name, wide, experts))
        else:
            self._add(name, wide, experts)

    def see_residual(self, rows: Any) -> None:
        """Weigh the inputs that wait by the stream that their outputs were added to, (tokens, hidden)."""
        inverse = 1 / np.maximum(np.square(rows).mean(axis=1), LEAST_STREAM)
        waiting, self._waiting = self._waiting, []
        for name, wide, experts in waiting:
            each = 1 if experts is None else max(1, len(wide) // len(rows))
            weights = np.repeat(inverse, each)[-len(wide) :]  # the last block may keep its last tokens only
            last = len(wide) - len(weights)
            self._add(name, wide[last:] * np.sqrt(weights)[:, None], None if experts is None else experts[last:])

    def finish_chunk(self) -> None:
        """Add what still waits: this llama.cpp names the stream in another way, so that all tokens count alike."""
        waiting, self._waiting = self._waiting, []
        for name, wide, experts in waiting:
            self._add(name, wide, experts)

    def _add(self, name: str, wide: Float, experts: Any) -> None:
        sums = self.sums[name]
        if self._effects is not None:
            in_layers = name[: name.find(".", 4) + 1] in self._layers
            effect = self._effects.stream if in_layers else self._effects.output
            # The last tokens are those of the rows: a last block, the MTP head and the output may have no others.
            weights = np.repeat(effect, 1 if experts is None else self._used)[-len(wide) :].astype(np.float32)
            wide = wide[-len(weights) :] * np.sqrt(weights)[:, None]
            experts = None if experts is None else experts[-len(weights) :]
        if experts is None:
            _add_products(sums[0], wide)
            return
        for number in range(len(sums)):
            own = wide[experts == number]
            if len(own):
                _add_products(sums[number], own)


def _add_products(sums: Float, rows: Float) -> None:
    if sums.ndim == 2:
        sums += rows.T @ rows
        return
    for number, block in enumerate(sums):
        part = rows[:, number * BLOCK : (number + 1) * BLOCK]
        block[: part.shape[1], : part.shape[1]] += part.T @ part


def collect(
    model: Path,
    split: Split,
    out: Path,
    *,
    kind: Kind,
    dataset: str,
    chunk: int = 512,
    chunks: int | None = None,
    effects: bool = True,
    wanted: Callable[[str], bool] = lambda _name: True,
    keep_effects: bool = False,
    memory_limit: int = 4 << 30,
    threads: int = 1,
    advance: Advance = lambda _done, _all: None,
) -> Moments:
    """Collect moments, or resume an interrupted run.

    Args:
        model: the GGUF; the less quantized, the better.
        split: tokenizes the calibration text.
        out: the file to be written; until it is complete, OUT.group-N has the sums so far.
        kind: blocks of 256 columns, or whole matrices.
        dataset: name of the text in the file.
        chunk: tokens of a chunk; chunks are evaluated independently.
        chunks: number of chunks at most; by default all.
        effects: tokens count by how much errors at them matter, which costs token_effects.SPACING + 1 more passes.
        wanted: tells whether moments of an input are collected.
        keep_effects: leave the effects of the tokens, in OUT.effects, for `kept_effects`.
        memory_limit: bytes of the sums that are collected in one pass over the text.
        threads: of the evaluation.
        advance: is called with the number of chunks that are done in all passes, and the number of all.

    Raises:
        ImatrixError: the text is too short.
        MomentsError: one input alone needs more memory.
        ModelError: the model cannot be loaded or evaluated.
        OutputError: the file cannot be written.

    """
    header = read_model(model)
    mtp, layers = memory.has_mtp(header), memory.main_layers(header)
    used = int(header.value(f"{header.architecture}.expert_used_count", 1))
    wanted_shapes = {name: shape for name, shape in _shapes(header, kind).items() if wanted(name)}
    groups = list(_groups(wanted_shapes, memory_limit))
    widths = {tensor.name: tensor.shape[-1] for tensor in header.tensors}
    with Model(model, ModelSpec(mtp=mtp)) as loaded:
        ids = split(loaded)
        total = count_chunks(ids, chunk, chunks, dataset)
        text = Text(ids, chunk, total, dataset)
        provenance = replace(provenance_of(header, text, kind, effects=effects), chunks=0)
        passes = len(groups) + (token_effects.SPACING + 1 if effects else 0)
        measured = effects_file(out)
        known = None
        if effects:
            whole = total * (passes - len(groups))

            def measured_so_far(done: int, tokens: int) -> None:
                advance(whole * done // tokens, total * passes)

            known = _effects(loaded, text, measured, provenance, measured_so_far, threads=threads).weights()
        parts = [out.with_name(f"{out.name}.group-{number}") for number in range(len(groups))]
        for number, (shapes, part) in enumerate(zip(groups, parts, strict=True)):
            done = (number + passes - len(groups)) * total

            def step(count: int, done: int = done) -> None:
                advance(done + count, total * passes)

            _collect_group(
                loaded,
                text,
                part,
                Sums(shapes, widths, layers, used),
                provenance,
                known,
                step,
                threads=threads,
                mtp=mtp,
            )
    read = [files.read(part) for part in parts]
    all_widths = {name: (shape, widths[name]) for group in groups for name, shape in group.items()}
    shapes = {name: shape for group in groups for name, shape in group.items()}
    entries = (one.entry(name) for one, group in zip(read, groups, strict=True) for name in group)
    files.write(out, replace(provenance, chunks=total), all_widths, entries)
    for part in (*parts, *([] if keep_effects else [measured])):
        part.unlink(missing_ok=True)
    return files.read(out)


def effects_file(out: Path) -> Path:
    """Name the file of the effects of tokens beside moments."""
    return out.with_name(f"{out.name}.effects")


def provenance_of(header: GgufHeader, text: Text, kind: Kind, *, effects: bool) -> Provenance:
    """Describe moments of a model over a text."""
    digest = text_digest(text.ids)
    return Provenance(kind, _fingerprint(header), digest, (text.dataset,), text.chunks, text.chunk, effects)


def kept_effects(out: Path, provenance: Provenance, text: Text) -> TokenEffects | None:
    """Return what the tokens of a text count, of moments that were collected with `keep_effects`; None: all alike.

    Raises:
        MomentsError: the effects are gone.

    """
    if not provenance.effects:
        return None
    ids = text.ids[: text.chunk * text.chunks]
    found = token_effects.read(effects_file(out), _effects_digest(provenance, ids), len(ids))
    if found is None:
        raise MomentsError(f"{effects_file(out)}: is missing or damaged; remove {out} and run the command again")
    return found.weights()


def _effects_digest(provenance: Provenance, ids: Sequence[int]) -> str:
    return f"{provenance.fingerprint} {text_digest(ids)}"


def _effects(
    model: Model,
    text: Text,
    path: Path,
    provenance: Provenance,
    advance: Callable[[int, int], None],
    *,
    threads: int,
) -> TokenEffects:
    """Measure the effects of the tokens, from where the file `path` stops."""
    ids = text.ids[: text.chunk * text.chunks]
    digest = _effects_digest(provenance, ids)
    begun = token_effects.read(path, digest, len(ids))

    def save(found: TokenEffects) -> None:
        token_effects.write(path, digest, found)

    return token_effects.measure(model, ids, begun, threads=threads, save=save, advance=advance)


def _collect_group(
    model: Model,
    text: Text,
    part: Path,
    sums: Sums,
    provenance: Provenance,
    effects: TokenEffects | None,
    advance: Callable[[int], None],
    *,
    threads: int,
    mtp: bool,
) -> None:
    """Evaluate the text once, from where the file `part` stops."""
    shapes = {name: one.shape for name, one in sums.sums.items()}
    begun = _begun(part, shapes, provenance, sums)
    if begun >= text.chunks:
        return

    def save(done: int) -> None:
        entries = (Entry(name, sums.sums[name], sums.squares[name], sums.counts[name]) for name in shapes)
        widths = {name: (shape, sums.squares[name].shape[1]) for name, shape in shapes.items()}
        files.write(part, replace(provenance, chunks=done), widths, entries)

    watch = watch_inputs(list(shapes), sums, residuals=True)
    with chunk_contexts(model, text.chunk, threads, watch, mtp=mtp) as evaluate:
        for number in range(begun, text.chunks):
            own = slice(number * text.chunk, (number + 1) * text.chunk)
            sums.begin_chunk(TokenEffects(effects.stream[own], effects.output[own]) if effects else None)
            evaluate(text.ids[own])
            sums.finish_chunk()
            advance(number + 1)
            if (number + 1) % SAVE_EVERY == 0 and number + 1 < text.chunks:
                save(number + 1)
    save(text.chunks)


def _begun(part: Path, shapes: dict[str, tuple[int, ...]], provenance: Provenance, sums: Sums) -> int:
    """Read the sums of an interrupted run, if its text, model and chunks are the same; return its chunks."""
    if not part.exists():
        return 0
    try:
        found = files.read(part)
    except MomentsError:
        return 0
    same = replace(found.provenance, chunks=0) == provenance and set(found.names) == set(shapes)
    if not same or any(found.sums(name).shape != shape for name, shape in shapes.items()):
        return 0
    for name in shapes:
        sums.sums[name][...] = found.sums(name)
        sums.squares[name][...] = found.squares(name)
        sums.counts[name][...] = found.counts(name)
    return found.provenance.chunks


def _shapes(header: GgufHeader, kind: Kind) -> dict[str, tuple[int, ...]]:
    """Map the inputs of the matrices that can be quantized to the shapes of their sums."""
    names = set(weight_names(header))
    found = {}
    for tensor in header.tensors:
        columns = tensor.shape[-1]
        wanted = len(tensor.shape) > 1 and tensor.name in names and not tensor_types.KEPT_F32.search(tensor.name)
        if wanted and files.input_of(tensor.name) == tensor.name and columns % SMALLEST == 0:
            matrices = tensor.shape[0] if len(tensor.shape) > 2 else 1
            found[tensor.name] = files.stored_shape(kind, matrices, columns)
    return found


def _groups(shapes: dict[str, tuple[int, ...]], limit: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Split the inputs, in the order of the model, into groups whose sums fit into `limit` bytes."""
    group: dict[str, tuple[int, ...]] = {}
    used = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        if size > limit:
            raise MomentsError(
                f"{name}: its moments need {size / 1e9:.2f} GB of memory; raise --memory, or collect blocks"
            )
        if group and used + size > limit:
            yield group
            group, used = {}, 0
        group[name] = shape
        used += size
    yield group


def check_same_model(moments: Moments, model: Path) -> None:
    """Refuse moments of another model.

    Raises:
        MomentsError: they are of another one.
        ModelError: the file is not a model.

    """
    if moments.provenance.fingerprint != _fingerprint(read_model(model)):
        raise MomentsError(f"{moments.path}: is not of {model}; collect moments of it")


def _fingerprint(header: GgufHeader) -> str:
    norm = header.tensor(OUTPUT_NORM)
    if norm is None:
        raise ModelError(f"{header.path}: has no {OUTPUT_NORM}; use a text model")
    return files.fingerprint(tensor_data(header, norm, map_data(header)).view("<f4"))
