"""What restricts answers: GBNF, regular expressions, JSON schemas, tools; compiled, and followed for a few tokens."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from fuzz.target import Target, as_text
from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured import gbnf, json_schema, patterns, tool_grammar
from qwen35_gguf.runtime.chat.structured.token_grammars import (
    byte_matcher,
    json_grammar,
    lark_grammar,
    regex_grammar,
)
from qwen35_gguf.runtime.chat.tool_calls.checks import check_tools

STEPS = 8


def follow(rules: str, choices: bytes) -> None:
    """Compile a grammar, and choose among the allowed bytes by those of the input."""
    matcher = byte_matcher(rules)
    words = np.zeros(9, np.uint32)
    for choice in choices[-STEPS:]:
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if matcher.is_error():
            raise GrammarError("grammar: allows no token here")
        allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[:257])
        if not len(allowed) or matcher.is_stopped() or not matcher.consume_token(int(allowed[choice % len(allowed)])):
            return


def read_gbnf(data: bytes) -> None:
    """Compile rules in GBNF."""
    follow(lark_grammar(gbnf.lark_rules(as_text(data))), data)


def gbnf_seeds() -> list[bytes]:
    """Every construct."""
    return [
        rb'root ::= ("a" | [^b-d\x41\u00e9] x{2,3})* .' + b'\nx ::= "\\n" | "y"+ ("z" "w"?)? # note\n',
        b'root ::= "(" root? ")" | x-1\nx-1 ::= [0-9]{1,3}',
    ]


def read_pattern(data: bytes) -> None:
    """Compile a regular expression of ECMAScript."""
    translated = patterns.translate(as_text(data))
    patterns.whole(translated)
    follow(regex_grammar(translated), data)


def read_schema(data: bytes) -> None:
    """Compile a JSON schema."""
    follow(json_grammar(json_schema.check(_json(data))), data)


def read_tools(data: bytes) -> None:
    """Check tools, and make the grammar of their calls."""
    given = _json(data)
    checked = check_tools(given if isinstance(given, list) else [given])
    if checked:
        tool_grammar.tool_grammar(checked, None)


def _json(data: bytes) -> Any:
    try:
        return json.loads(as_text(data))
    except (ValueError, RecursionError):
        raise GrammarError("is not JSON") from None


def schema_seeds() -> list[bytes]:
    """Objects and their names, arrays, numbers, texts, references, conditions."""
    schemas: list[Any] = [
        {
            "type": "object", "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"$ref": "#/$defs/t"}},
            "required": ["a"], "additionalProperties": False,
            "$defs": {"t": {"anyOf": [{"type": "string", "maxLength": 9}, {"$ref": "#/$defs/t"}, {"type": "null"}]}},
        },
        {"type": "array", "prefixItems": [{"const": 1}, {"enum": ["x", 2]}], "items": {"pattern": "^a+[b-d]$"}},
        {"allOf": [{"type": "number", "multipleOf": 0.5}, {"maximum": 9}], "title": "x", "nullable": True},
        {"oneOf": [{"format": "date-time"}, {"type": "array", "uniqueItems": True, "minItems": 1}]},
        {
            "type": "object", "patternProperties": {"^x": {"format": "ipv4"}}, "propertyNames": {"pattern": "^[a-z]+$"},
            "minProperties": 1, "maxProperties": 3, "dependentRequired": {"a": ["b"]}, "unevaluatedProperties": False,
        },
        {"type": "object", "propertyNames": {"minLength": 1, "maxLength": 3}, "additionalProperties": {"not": {}}},
        {"dependentSchemas": {"a": {"required": ["b"]}}, "if": {"const": 1}, "then": True, "else": False},
    ]  # fmt: skip
    return [json.dumps(schema).encode() for schema in schemas]


def tool_seeds() -> list[bytes]:
    """Two functions."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": ["integer", "null"]}}}
    functions = [{"name": "f", "parameters": parameters, "strict": True}, {"name": "g"}]
    return [json.dumps([{"type": "function", "function": one} for one in functions]).encode()]


ROOM = "qwen35_gguf.runtime.chat.structured"
KEYWORDS = tuple(f'"{word}"' for word in json_schema.KEYWORDS)
TARGETS = (
    Target(
        "gbnf",
        read_gbnf,
        gbnf_seeds,
        (f"{ROOM}.gbnf",),
        ("root ::= ", "::=", "{1,3}", "{2,}", "[^", "]*", "\\x41", "\\u00e9", "\\U0001F600", '"a"', "#", "|"),
        needs=("llguidance",),
    ),
    Target(
        "regex",
        read_pattern,
        lambda: [rb"^(?:a|[^\d\w-]{2,3})+\u00e9\p{L}$", rb"(?<n>x*?)|\bq\/(?=y)", rb"[\u{1F600}\uD83D\uDE00-z]"],
        (f"{ROOM}.patterns",),
        ("(?:", "(?=", "\\p{", "\\b", "[^", "{1000}", "(?i)", "\\u{", "$", "^"),
        needs=("llguidance",),
        longest=1024,
    ),
    Target(
        "schema",
        read_schema,
        schema_seeds,
        tuple(f"{ROOM}.{name}" for name in ("json_schema", "schema_walk", "schema_values", "object_keywords")),
        (*KEYWORDS, '"#/$defs/', "#"),
        needs=("llguidance",),
    ),
    Target("tools", read_tools, tool_seeds, (f"{ROOM}.tool_grammar",), KEYWORDS[:20], needs=("llguidance",)),
)
