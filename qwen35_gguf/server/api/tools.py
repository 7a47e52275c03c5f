"""What APIs do with tools: schemas enforced where that is possible, and the arguments of a truncated call."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping
from typing import Any

from qwen35_gguf.errors import GrammarError, ToolError
from qwen35_gguf.runtime.chat.structured.tool_grammar import tool_grammar
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools


def function_tool(
    name: str, description: str | None, parameters: Mapping[str, Any], strict: bool | None
) -> dict[str, Any]:
    """Make a tool as the library takes it.

    Args:
        name: of the function.
        description: for the model.
        parameters: their JSON schema.
        strict: True: a schema that cannot be enforced is refused later, by its keyword; else such a schema is only
            shown to the model.

    """
    function: dict[str, Any] = {"name": name, "parameters": dict(parameters)}
    if description is not None:
        function["description"] = description
    tool = {"type": "function", "function": function}
    if not strict and not _enforceable(json.dumps(tool)):
        function["strict"] = False
    return tool


@functools.lru_cache(maxsize=512)
def _enforceable(tool: str) -> bool:
    try:
        tool_grammar(check_tools([json.loads(tool)]))
    except (GrammarError, ToolError):
        return False
    return True


def complete_arguments(arguments: str) -> tuple[dict[str, Any], bool]:
    """Read the arguments of a call; of a truncated one those that are complete.

    Returns:
        The arguments, and whether they are all.

    """
    for closing, dropped in (("", 0), ("}", 0), ('"}', 1)):  # only a text is sent before it is complete
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(arguments + closing)
            return dict(list(found.items())[: len(found) - dropped]), not closing
    return {}, False
