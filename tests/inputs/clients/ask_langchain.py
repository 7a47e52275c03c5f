"""LangChain: python ask_langchain.py URL GIVEN, where GIVEN is JSON with a tool, a schema and an image."""

from __future__ import annotations

import json
import sys
from typing import Any

from langchain_openai import ChatOpenAI

url, given = sys.argv[1], json.loads(sys.argv[2])
place: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "model": "demo", "max_retries": 0}
chat = ChatOpenAI(temperature=0, max_tokens=16, **place)
whole = chat.invoke("Hello there")
assert "".join(piece.content for piece in chat.stream("Hello there")) == whole.content
assert whole.usage_metadata["output_tokens"] > 0
brief = ChatOpenAI(temperature=0, max_tokens=400, reasoning_effort="none", **place)
called = brief.bind_tools([given["tool"]], tool_choice="required").invoke("What is the weather in Paris?")
assert called.tool_calls[0]["name"] == "weather"
schema = {"title": "person", "description": "a person", **given["schema"]}
assert set(brief.with_structured_output(schema, method="json_schema").invoke("Who is it?")) == {"name", "adult"}
parts = [{"type": "image_url", "image_url": {"url": given["image"]}}]
assert chat.invoke([{"role": "user", "content": parts}]).usage_metadata["input_tokens"] > 64
assert ChatOpenAI(use_responses_api=True, max_tokens=16, **place).invoke("Hello there").usage_metadata
reason = ""
try:
    ChatOpenAI(**(place | {"model": "other"})).invoke("Hello")
except Exception as error:
    reason = str(error)
assert "'other' does not exist" in reason, reason
