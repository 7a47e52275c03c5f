"""`qwen35 lint`: find what would break a GGUF for its users, before it is published.

An ordered table of checks. Each takes the model's headers and yields diagnostics; only the last two read weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qwen35_gguf.architecture import DENSE, MOE
from qwen35_gguf.errors import GgufError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.gguf_file.shards import read_set
from qwen35_gguf.release.lint import adapter, constant, metadata, numbers, template, tensors, vision, weights
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Subject, subject
from qwen35_gguf.runtime.llama.adapters.lora_file import is_adapter

TEXT, VISION, LORA = (DENSE, MOE), ("clip",), ("adapter",)


class Check(NamedTuple):
    """One check and the architectures that it applies to; an adapter's is `LORA`, whatever its base."""

    find: Callable[[Subject], Iterator[Diagnostic]]
    architectures: Sequence[str]


CHECKS = (
    Check(tensors.offsets, TEXT + VISION + LORA),
    Check(adapter.factors, LORA),
    Check(tensors.block_count, TEXT),
    Check(tensors.nextn, TEXT),
    Check(numbers.attention_interval, TEXT),
    Check(tensors.shapes, TEXT),
    Check(numbers.hyper_parameters, TEXT),
    Check(metadata.rope, TEXT),
    Check(metadata.vocabulary, TEXT),
    Check(metadata.pre_tokenizer, TEXT),
    Check(metadata.end_tokens, TEXT),
    Check(metadata.tags, TEXT),
    Check(template.chat_template, TEXT),
    Check(template.named, TEXT),
    Check(numbers.sampling, TEXT),
    Check(numbers.label, TEXT),
    Check(metadata.file_type, TEXT),
    Check(vision.matches, TEXT),
    Check(template.images, TEXT),
    Check(vision.complete, VISION),
)


def read_subject(file: Path, mmproj: Path | None = None) -> Subject:
    """Read the headers of a model and its shards, and of the vision encoders beside it or of the one that is named.

    Raises:
        GgufError: a file is missing, damaged or truncated, or not of this family.

    """
    shards = tuple(read_set(file))
    arch = shards[0].value("general.architecture")
    if arch not in TEXT + VISION:
        raise GgufError(f"{file}: is a GGUF of {arch}, not of Qwen3.5 ({', '.join(TEXT + VISION)})")
    if mmproj is not None:
        if arch in VISION:
            raise GgufError(f"{file}: is a vision encoder; name the text model, and this file with --mmproj")
        return subject(shards, (read_header(mmproj),), named=True)
    return subject(shards, () if arch in VISION or is_adapter(shards[0]) else tuple(vision.beside(shards[0])))


def lint(
    model: Subject, *, values: bool = True, jobs: int = 0, advance: weights.Advance = lambda _: None
) -> list[Diagnostic]:
    """Run the checks, those that read weights last.

    Args:
        model: from `read_subject`.
        values: check the weights as well, which reads the whole file.
        jobs: threads that check weights; 0 for one a core.
        advance: is called with the bytes of each part that was read.

    Raises:
        GgufError: a file cannot be read.

    """
    kind = LORA[0] if is_adapter(model.shards[0]) else model.arch
    found = [one for check in CHECKS if kind in check.architectures for one in check.find(model)]
    if not values:
        return found
    if kind not in LORA:  # where factors of zeros are usual
        found += constant.constant(model, jobs)
    return [*found, *weights.finite(model, jobs, advance)]
