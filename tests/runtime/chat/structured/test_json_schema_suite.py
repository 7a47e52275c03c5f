"""The JSON Schema Test Suite: no schema that is accepted lets a value through that the suite calls invalid."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from oracles import json_schema_suite
from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured.json_schema import check
from qwen35_gguf.runtime.chat.structured.token_grammars import byte_matcher, json_grammar

pytestmark = pytest.mark.slow


def accepts(grammar: str, text: str) -> bool:
    matcher = byte_matcher(grammar)
    read = matcher.try_consume_tokens(list(text.encode()))
    return read == len(text.encode()) and matcher.is_accepting()


def test_no_invalid_value_is_accepted() -> None:
    seen: Counter[str] = Counter()
    wrong = []
    for group in json_schema_suite.groups():
        try:
            grammar = json_grammar(check(group.schema))
        except GrammarError:
            seen["refused schemas"] += 1
            continue
        for value, valid in group.values:
            text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            accepted = accepts(grammar, text)
            seen[f"valid {valid}, accepted {accepted}"] += 1
            if accepted and not valid:
                wrong.append((group.name, text))
    assert not wrong
    # Narrower than a schema is allowed: keys in one order, and types where the schema names none.
    assert seen["valid True, accepted True"] > 250, seen
    assert seen["valid False, accepted False"] > 250, seen
