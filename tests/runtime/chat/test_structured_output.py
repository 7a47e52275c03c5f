"""What a request may ask of the form of an answer."""

from __future__ import annotations

import pytest

from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured_output import grammar_text


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": 3}},
        {"type": "json_object", "schema": {"$ref": "#/nowhere"}},
        {"type": "json_schema", "json_schema": {"schema": {"type": 3}}},
        {},
        [],
    ],
)
def test_a_bad_response_format(wanted: object) -> None:
    with pytest.raises(GrammarError):
        grammar_text(wanted, None)  # type: ignore[arg-type]


@pytest.mark.unit
def test_text_needs_no_grammar() -> None:
    assert grammar_text({"type": "text"}, None) is None
    assert grammar_text(None, "root ::= x") == "root ::= x"
