"""Collect second moments: for each matmul of a model, X^T X of its inputs over a text (see quant/rounding/moments.py).

Groups of inputs are collected one after the other, as many as fit into memory, each in a pass over the text. A group
that is complete is in a file of its own, which an interrupted run resumes from. Every second chunk has sums of its own
until then, by which the shrinking of each input is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from qwen35_gguf.atomic_file import discard
from qwen35_gguf.errors import MomentsError
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
from qwen35_gguf.evaluation.sums import embedding_moments
from qwen35_gguf.evaluation.sums.half_moments import shrinking_of
from qwen35_gguf.evaluation.sums.moment_sums import SECOND_HALF, Halves, whole_entry
from qwen35_gguf.evaluation.texts.tokenized import Split
from qwen35_gguf.evaluation.token_effects import TokenEffects
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import map_data, tensor_data
from qwen35_gguf.quant import tensor_types
from qwen35_gguf.quant.rounding import moments as files
from qwen35_gguf.quant.rounding.input_sums import HALVES
from qwen35_gguf.quant.rounding.moments import Entry, Kind, Moments, Provenance
from qwen35_gguf.runtime.llama.model import Model, ModelSpec
from qwen35_gguf.runtime.model_files import read_model, require_tensor
from qwen35_gguf.runtime.planning import memory

OUTPUT_NORM = "output_norm.weight"
SMALLEST = 32  # columns: no type with blocks has fewer


@dataclass(frozen=True)
class Text:
    """What is evaluated: token ids in chunks, and what the text is called."""

    ids: Sequence[int]
    chunk: int
    chunks: int
    dataset: str


@dataclass(frozen=True)
class How:
    """How moments are collected.

    Attributes:
        kind: blocks of 256 columns, or whole matrices.
        effects: tokens count by how much errors at them matter, which costs token_effects.SPACING + 1 more passes.
        wanted: tells whether moments of an input are collected.
        keep_effects: leave the effects of the tokens, in OUT.effects, for `kept_effects`.
        memory_limit: bytes of the sums that are collected in one pass over the text.
        threads: of the evaluation.

    """

    kind: Kind
    effects: bool = True
    wanted: Callable[[str], bool] = lambda _name: True
    keep_effects: bool = False
    memory_limit: int = 4 << 30
    threads: int = 1


def collect(
    model: Path,
    split: Split,
    out: Path,
    *,
    dataset: str,
    chunk: int = 512,
    chunks: int | None = None,
    advance: Advance = lambda _done, _all: None,
    **how: Any,
) -> Moments:
    """Collect moments, or resume an interrupted run.

    Args:
        model: the GGUF; the less quantized, the better.
        split: tokenizes the calibration text.
        out: the file to be written; until it is complete, OUT.group-N has the sums so far.
        dataset: name of the text in the file.
        chunk: tokens of a chunk; chunks are evaluated independently.
        chunks: number of chunks at most; by default all.
        advance: is called with the number of chunks that are done in all passes, and the number of all.
        how: what `How` takes.

    Raises:
        ImatrixError: the text is too short.
        MomentsError: one input alone needs more memory.
        ModelError: the model cannot be loaded or evaluated.
        OutputError: the file cannot be written.

    """
    with load(model) as loaded:
        ids = split(loaded)
        text = Text(ids, chunk, count_chunks(ids, chunk, chunks, dataset), dataset)
        return collect_loaded(loaded, text, out, How(**how), advance)


def load(model: Path) -> Model:
    """Load a model whose moments are to be collected, with its MTP head.

    Raises:
        ModelError: it cannot be loaded.

    """
    return Model(model, ModelSpec(mtp=memory.has_mtp(read_model(model))))


def collect_loaded(
    model: Model, text: Text, out: Path, how: How, advance: Advance = lambda _done, _all: None
) -> Moments:
    """Collect moments of a model that `load` returned; see `collect`."""
    header = read_model(model.path)
    layers = memory.main_layers(header)
    used = int(header.value(f"{header.architecture}.expert_used_count", 1))
    wanted_shapes = {name: shape for name, shape in _shapes(header, how.kind).items() if how.wanted(name)}
    groups = list(_groups(wanted_shapes, how.memory_limit))
    widths = {tensor.name: tensor.shape[-1] for tensor in header.tensors}
    provenance = replace(provenance_of(header, text, how.kind, effects=how.effects), chunks=0)
    passes = len(groups) + (token_effects.SPACING + 1 if how.effects else 0)
    measured = effects_file(out)
    known = None
    if how.effects:
        whole = text.chunks * (passes - len(groups))

        def measured_so_far(done: int, tokens: int) -> None:
            advance(whole * done // tokens, text.chunks * passes)

        known = _effects(model, text, measured, provenance, measured_so_far, threads=how.threads).weights()
    parts = [out.with_name(f"{out.name}.group-{number}") for number in range(len(groups))]
    for number, (shapes, part) in enumerate(zip(groups, parts, strict=True)):
        done = (number + passes - len(groups)) * text.chunks

        def step(count: int, done: int = done) -> None:
            advance(done + count, text.chunks * passes)

        _collect_group(
            model, text, part, Halves(shapes, widths, layers, used), provenance, known, step, threads=how.threads,
            mtp=memory.has_mtp(header),
        )  # fmt: skip
    read = {name: one for one, group in zip(map(files.read, parts), groups, strict=True) for name in group}
    halves = {name: (one.entry(name), one.entry(name + SECOND_HALF)) for name, one in read.items()}
    chosen = {name: shrinking_of(header, *both, how.threads) for name, both in halves.items()}
    shapes_of_all = {name: (shape, widths[name]) for group in groups for name, shape in group.items()}
    embedding = _embedding(model, header, text, how)
    for entry in embedding:
        shapes_of_all[entry.name] = entry.sums.shape, widths[entry.name]
        chosen[entry.name] = embedding_moments.SHRINKING
    files.write(
        out,
        replace(provenance, chunks=text.chunks),
        shapes_of_all,
        chain((whole_entry(name, *both) for name, both in halves.items()), embedding),
        shrinkings={name: value for name, value in chosen.items() if value is not None},
    )
    discard(*parts, *([] if how.keep_effects else [measured]))
    return files.read(out)


def _embedding(model: Model, header: GgufHeader, text: Text, how: How) -> list[Entry]:
    """Return the moments of an embedding that is looked up only, if there is one whose moments are wanted."""
    name = embedding_moments.EMBEDDING
    if not (embedding_moments.is_looked_up_only(header) and how.wanted(name)):
        return []
    ids = text.ids[: text.chunk * text.chunks]
    return [embedding_moments.collect(model, header, ids, text.chunk, how.kind, how.threads)]


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
    sums: Halves,
    provenance: Provenance,
    effects: TokenEffects | None,
    advance: Callable[[int], None],
    *,
    threads: int,
    mtp: bool,
) -> None:
    """Evaluate the text once, from where the file `part` stops."""
    begun = _begun(part, provenance, sums)
    if begun >= text.chunks:
        return

    def save(done: int) -> None:
        entries = sums.entries()
        widths = {name: (one.sums.shape, one.squares.shape[1]) for name, one in entries.items()}
        files.write(part, replace(provenance, chunks=done), widths, entries.values())

    watch = watch_inputs(sums.names, sums, residuals=True)
    with chunk_contexts(model, text.chunk, threads, watch, mtp=mtp) as evaluate:
        for number in range(begun, text.chunks):
            own = slice(number * text.chunk, (number + 1) * text.chunk)
            known = TokenEffects(effects.stream[own], effects.output[own]) if effects else None
            sums.begin_chunk(number, known)
            evaluate(text.ids[own])
            sums.finish_chunk()
            advance(number + 1)
            if (number + 1) % SAVE_EVERY == 0 and number + 1 < text.chunks:
                save(number + 1)
    save(text.chunks)


def _begun(part: Path, provenance: Provenance, sums: Halves) -> int:
    """Read the sums of an interrupted run, if its text, model and chunks are the same; return its chunks."""
    if not part.exists():
        return 0
    try:
        found = files.read(part)
    except MomentsError:
        return 0
    wanted = sums.entries()
    same = replace(found.provenance, chunks=0) == provenance and set(found.names) == set(wanted)
    if not same or any(found.sums(name).shape != one.sums.shape for name, one in wanted.items()):
        return 0
    sums.restore({name: found.entry(name) for name in wanted})
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
        size = 4 * HALVES * math.prod(shape)
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
    norm = require_tensor(header, OUTPUT_NORM)
    return files.fingerprint(tensor_data(header, norm, map_data(header)).view("<f4"))
