"""Checks of values that are options of loading and of generating."""

from __future__ import annotations

from typing import Any

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.engine.drafts.draft_depth import MAX_DEPTH
from qwen35_gguf.runtime.field_checks import either, mapping, whole

# What is always given to a chat template, and no option.
TEMPLATE_OWN = ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "self")

depth = either("auto", whole(0, MAX_DEPTH))


def of_template(name: str, value: Any) -> dict[str, Any]:
    """Check further variables of a chat template; those that the library sets are not among them."""
    found = dict(mapping(name, value))
    for variable in found:
        if variable in TEMPLATE_OWN:
            raise MessageError(f"{name}: {variable} is set by other options; leave it out")
    return found
