"""What APIs do with tools: schemas enforced where that is possible, and the arguments of a truncated call."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qwen35_gguf.errors import GrammarError, ToolError
from qwen35_gguf.runtime.chat.structured.tool_grammar import tool_grammar
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools
from qwen35_gguf.runtime.options import GenerateOptions


def function_tool(
    name: str, description: str | None, parameters: Mapping[str, Any], strict: bool | None
) -> dict[str, Any]:
    """Make a tool as the library takes it.

    Args:
        name: of the function.
        description: for the model.
        parameters: their JSON schema.
        strict: True: a schema that cannot be enforced is refused, by its keyword; else such a schema is only shown to
            the model. See `with_enforceable`.

    """
    function: dict[str, Any] = {"name": name, "parameters": dict(parameters)}
    if description is not None:
        function["description"] = description
    if strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def with_enforceable(options: GenerateOptions) -> GenerateOptions:
    """Return options with tools of `function_tool`, those that are not strict marked where that is needed.

    Trying a schema takes long, so that the sizes of the options are checked before.
    """
    return replace(options, tools=[_tried(tool) for tool in options.tools]) if options.tools else options


def _tried(tool: dict[str, Any]) -> dict[str, Any]:
    function = dict(tool["function"])
    strict = function.pop("strict", False)
    tried = {**tool, "function": function}
    if not strict and not _enforceable(tried):
        function["strict"] = False
    return tried


def _enforceable(tool: Mapping[str, Any]) -> bool:
    try:
        tool_grammar(check_tools([tool]))
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
