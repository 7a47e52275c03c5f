"""Messages and a tool that tests of requests share."""

from __future__ import annotations

HELLO = [{"role": "user", "content": "Hello there"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
