"""`qwen35 lint`: find what would break a GGUF for those who download it, before they do.

An ordered table of checks. Each takes the model's headers and yields what it found; only the last reads weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qwen35_gguf.errors import GgufError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.gguf_file.shards import read_set
from qwen35_gguf.release.lint import metadata, template, tensors, vision, weights
from qwen35_gguf.release.lint.diagnostic import Finding, Subject, subject

TEXT, VISION = ("qwen35", "qwen35moe"), ("clip",)


class Check(NamedTuple):
    """One check and the architectures that it is for."""

    find: Callable[[Subject], Iterator[Finding]]
    architectures: Sequence[str]


CHECKS = (
    Check(tensors.offsets, TEXT + VISION),
    Check(tensors.block_count, TEXT),
    Check(tensors.nextn, TEXT),
    Check(tensors.shapes, TEXT),
    Check(metadata.rope, TEXT),
    Check(metadata.vocabulary, TEXT),
    Check(metadata.pre_tokenizer, TEXT),
    Check(metadata.end_tokens, TEXT),
    Check(template.chat_template, TEXT),
    Check(metadata.file_type, TEXT),
    Check(vision.matches, TEXT),
    Check(template.pictures, TEXT),
    Check(vision.whole, VISION),
)


def read_subject(file: Path, mmproj: Path | None = None) -> Subject:
    """Read a model's headers, those of its shards, and those of the towers beside it or of the one that is named.

    Raises:
        GgufError: a file is missing, damaged or cut off, or not of this family.

    """
    shards = tuple(read_set(file))
    arch = shards[0].value("general.architecture")
    if arch not in TEXT + VISION:
        raise GgufError(f"{file}: is a GGUF of {arch}, not of Qwen3.5 ({', '.join(TEXT + VISION)})")
    if mmproj is not None:
        if arch in VISION:
            raise GgufError(f"{file}: is a vision tower itself; name the text model, and this file with --mmproj")
        return subject(shards, (read_header(mmproj),), chosen=True)
    return subject(shards, () if arch in VISION else tuple(vision.beside(shards[0])))


def lint(
    model: Subject, *, values: bool = True, jobs: int = 0, advance: weights.Advance = lambda _: None
) -> list[Finding]:
    """Run the checks, those that read weights last.

    Args:
        model: from `read_subject`.
        values: look at the weights as well, which reads the whole file.
        jobs: threads for that; 0 for one a core.
        advance: called with the bytes that were read.

    Raises:
        GgufError: a file cannot be read.

    """
    found = [finding for check in CHECKS if model.arch in check.architectures for finding in check.find(model)]
    return [*found, *weights.finite(model, jobs, advance)] if values else found
