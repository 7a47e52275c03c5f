"""`qwen35 lint`: find what would break a GGUF for those who download it, before they do.

An ordered table of checks. Each takes the model's headers and yields what it found; only the last reads weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qwen35_gguf.errors import GgufError
from qwen35_gguf.release import lint_metadata, lint_template, lint_tensors, lint_values, lint_vision
from qwen35_gguf.release.container import read_layout
from qwen35_gguf.release.finding import Finding, Subject, subject
from qwen35_gguf.release.shards import read_set

TEXT, VISION = ("qwen35", "qwen35moe"), ("clip",)


class Check(NamedTuple):
    """One check and the architectures that it is for."""

    find: Callable[[Subject], Iterator[Finding]]
    architectures: Sequence[str]


CHECKS = (
    Check(lint_tensors.offsets, TEXT + VISION),
    Check(lint_tensors.block_count, TEXT),
    Check(lint_tensors.nextn, TEXT),
    Check(lint_tensors.shapes, TEXT),
    Check(lint_metadata.rope, TEXT),
    Check(lint_metadata.vocabulary, TEXT),
    Check(lint_metadata.pre_tokenizer, TEXT),
    Check(lint_metadata.end_tokens, TEXT),
    Check(lint_template.chat_template, TEXT),
    Check(lint_metadata.file_type, TEXT),
    Check(lint_vision.matches, TEXT),
    Check(lint_template.pictures, TEXT),
    Check(lint_vision.whole, VISION),
)


def read_subject(file: Path, mmproj: Path | None = None) -> Subject:
    """Read a model's headers, those of its shards, and those of the towers beside it or of the one that is named.

    Raises:
        GgufError: a file is missing, damaged or cut off, or not of this family.

    """
    shards = tuple(read_set(file))
    arch = shards[0].get("general.architecture")
    if arch not in TEXT + VISION:
        raise GgufError(f"{file}: is a GGUF of {arch}, not of Qwen3.5 ({', '.join(TEXT + VISION)})")
    if mmproj is not None:
        if arch in VISION:
            raise GgufError(f"{file}: is a vision tower itself; name the text model, and this file with --mmproj")
        return subject(shards, (read_layout(mmproj),), chosen=True)
    return subject(shards, () if arch in VISION else tuple(lint_vision.beside(shards[0])))


def lint(
    model: Subject, *, values: bool = True, jobs: int = 0, advance: lint_values.Advance = lambda _: None
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
    return [*found, *lint_values.finite(model, jobs, advance)] if values else found
