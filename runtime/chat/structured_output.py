"""What the content of an answer must obey: a JSON schema or a grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.llama.samplers import schema_grammar

JSON_OBJECT = {"type": "object"}  # any JSON object, for response_format {"type": "json_object"}


def grammar_text(response_format: Mapping[str, Any] | None, grammar: str | None) -> str | None:
    """Return the grammar that a request asks for, None if it asks for none.

    `response_format` is OpenAI's: `{"type": "text"}`, `{"type": "json_object"}`, or `{"type": "json_schema",
    "json_schema": {"schema": {...}}}`; llama.cpp's `{"type": "json_object", "schema": {...}}` is accepted, too.
    `grammar` is GBNF.

    Raises:
        GrammarError: both are given, or the schema is not valid.

    """
    if response_format is None:
        return grammar
    if grammar is not None:
        raise GrammarError("response_format and grammar: give one of them")
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        schema = response_format.get("schema", JSON_OBJECT)
    elif kind == "json_schema":
        inner = response_format.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else response_format.get("schema")
    else:
        raise GrammarError(f"response_format: {kind!r} is not text, json_object or json_schema")
    if not isinstance(schema, Mapping):
        raise GrammarError("response_format: has no JSON schema; give an object")
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError):
        raise GrammarError("response_format: the schema is not JSON") from None
    return schema_grammar(text)
