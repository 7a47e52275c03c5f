"""Add moments of one model over several texts, or over parts of one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qwen35_gguf.errors import MomentsError
from qwen35_gguf.quant.imatrix import LARGEST_SUM, MOST_CHUNKS
from qwen35_gguf.quant.rounding.moments import Entry, Moments, widths_of, write

TOO_LARGE = "moments: their sums are larger than a file can hold; merge fewer of them"


def join(several: Sequence[Moments], path: Path) -> None:
    """Write the sums of moments of one model over several texts, or over parts of one.

    Raises:
        MomentsError: they are of different models, or of different kinds, or sums are larger than a file can hold.
        OutputError: the file cannot be written.

    """
    first = several[0]
    if found := next((one for one in several if one.provenance.types), None):
        raise MomentsError(f"{found.path}: is of a quantized model, whose parts do not add up; collect the whole text")
    for one in several[1:]:
        if one.provenance.fingerprint != first.provenance.fingerprint or one.names != first.names:
            raise MomentsError(f"{one.path}: is of another model than {first.path}; give moments of one model")
        if one.provenance.kind != first.provenance.kind:
            kinds = f"{one.provenance.kind} moments, {first.path} {first.provenance.kind}"
            raise MomentsError(f"{one.path}: has {kinds}; give files of one kind")
        if one.provenance.effects != first.provenance.effects:
            raise MomentsError(
                f"{one.path}: tokens count by their effect in only one of it and {first.path}; give files of one kind"
            )
    for name in first.names:
        if len({one.sums(name).shape for one in several}) > 1:
            raise MomentsError(f"{name}: has another shape in one of the files; give moments of one model")
    datasets = tuple(dict.fromkeys(name for one in several for name in one.provenance.datasets))
    texts = hashlib.sha256("".join(sorted(one.provenance.text for one in several)).encode()).hexdigest()
    chunks = sum(one.provenance.chunks for one in several)
    if chunks >= MOST_CHUNKS:
        raise MomentsError(TOO_LARGE)
    total = replace(first.provenance, datasets=datasets, text=texts, chunks=chunks)

    def entries() -> Iterator[Entry]:
        for name in first.names:
            sums, squares, counts = np.array(first.sums(name)), first.squares(name), first.counts(name)
            with np.errstate(over="ignore"):
                for one in several[1:]:
                    sums += one.sums(name)
                    squares, counts = squares + one.squares(name), counts + one.counts(name)
            if any(np.abs(added).max(initial=0.0) > LARGEST_SUM for added in (sums, squares, counts)):
                raise MomentsError(TOO_LARGE)
            yield Entry(name, sums, squares, counts)

    write(path, total, widths_of(first), entries(), shrinkings=_mean_shrinkings(several))


def _mean_shrinkings(several: Sequence[Moments]) -> dict[str, float]:
    """Return the mean of the shrinkings that were chosen for each input, by the tokens of the files."""
    found = {}
    for name in several[0].names:
        chosen = [(value, one.counts(name).sum()) for one in several if (value := one.shrinking(name)) is not None]
        if chosen:
            values, counts = zip(*chosen, strict=True)
            found[name] = float(np.average(values, weights=counts))
    return found
