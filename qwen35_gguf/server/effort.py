"""How long the model thinks, in the terms of the APIs."""

from __future__ import annotations

from typing import Any

from qwen35_gguf.server.api_error import bad_request

# Tokens after which the thinking is ended; None: no limit. "none" switches it off.
EFFORTS: dict[str, int | None] = {
    "none": 0,
    "minimal": 256,
    "low": 1024,
    "medium": 8192,
    "high": None,
    "xhigh": None,
    "max": None,
}


def thinking_options(effort: object, param: str = "reasoning_effort") -> dict[str, Any]:
    """Turn an effort into keywords of `GenerateOptions`; the file's template gets it, too.

    Raises:
        ApiError: there is none of that name.

    """
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise bad_request(f"{param}: {str(effort)[:40]!r} is not {', '.join(EFFORTS)}; use one of them", param)
    budget = EFFORTS[effort]
    if budget == 0:
        return {"thinking": False}
    return {"thinking": True, "thinking_budget": budget, "reasoning_effort": effort}
