"""Whether a GGUF LoRA is one that llama.cpp loads; its base is not needed for that."""

from __future__ import annotations

from collections.abc import Iterator

from qwen35_gguf.errors import AdapterError
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Subject
from qwen35_gguf.runtime.llama.adapters.lora_file import check_lora


def factors(adapter: Subject) -> Iterator[Diagnostic]:
    """Check the entries, and that every tensor is one of a pair of factors."""
    try:
        check_lora(adapter.shards[0])
    except AdapterError as error:
        what, _, advice = str(error).removeprefix(f"{adapter.path}: ").rpartition("; ")
        yield Diagnostic("error", "adapter", adapter.path.name, what or advice, advice)
