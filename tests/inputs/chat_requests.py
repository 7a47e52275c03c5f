"""Messages and a tool that tests of requests share."""

from __future__ import annotations

from typing import Any

HELLO = [{"role": "user", "content": "Hello there"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}

_TEXT = {"type": "string", "minLength": 1200}
_SCHEMA = {"type": "object", "properties": {"text": _TEXT}, "required": ["text"], "additionalProperties": False}
_FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}
# A tool whose only argument takes hundreds of tokens.
LONG_TOOL = {"type": "function", "function": {"name": "write", "parameters": _SCHEMA}}
# A request of each API whose answer takes hundreds of tokens, by the path.
LONG_ANSWERS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO, "response_format": _FORM, "reasoning_effort": "none"},
    "/v1/completions": {"prompt": "Once", "response_format": _FORM, "max_tokens": 1500},
    "/v1/responses": {
        "input": "Hello there",
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": _SCHEMA}},
        "reasoning": {"effort": "none"},
    },
    "/v1/messages": {
        "messages": HELLO,
        "max_tokens": 1500,
        "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
    },
}
