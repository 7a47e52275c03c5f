"""What a request asks of the form of its answer, and the mask that enforces it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.architecture.tags import TOOL_CALL
from qwen35_gguf.errors import GrammarError, MessageError, ToolError
from qwen35_gguf.json_file import printable
from qwen35_gguf.runtime.chat.structured import gbnf, json_schema, patterns, tool_grammar
from qwen35_gguf.runtime.chat.structured.answer_types import AnswerType, python_type, schema_type
from qwen35_gguf.runtime.chat.structured.masks import GrammarMask, TriggeredMask
from qwen35_gguf.runtime.chat.structured.schema_walk import CheckedSchema
from qwen35_gguf.runtime.chat.structured.token_grammars import (
    TokenGrammars,
    json_document,
    json_grammar,
    lark_grammar,
    regex_grammar,
)
from qwen35_gguf.runtime.chat.structured.tool_grammar import ToolGrammar
from qwen35_gguf.runtime.chat.structured.unique_items import UniqueItemsMask
from qwen35_gguf.runtime.engine.token_mask import Grammar, TokenMask

JSON_OBJECT = {"type": "object"}  # any JSON object, for response_format {"type": "json_object"}
_LARK_RULE = re.compile(r"^\s*\??[A-Za-z_]\w*[^:\n]*:", re.MULTILINE)
FORMATS = "text, json_object, json_schema, grammar, regex, lark or gbnf"
WHERE = "JSON schema"


@dataclass(frozen=True)
class AnswerForm:
    """The form of the content: a grammar, or a JSON schema.

    Attributes:
        grammar: rules; None with a schema.
        checked: the schema; None with rules.
        type: how the content is read; None with rules.

    """

    grammar: Grammar | None = None
    checked: CheckedSchema | None = None
    type: AnswerType | None = None


@dataclass(frozen=True)
class CallForm:
    """Which calls may come, and how they are written.

    Attributes:
        grammar: of the tools that may be called.
        must: the answer consists of calls.
        parallel: there may be more than one.

    """

    grammar: ToolGrammar
    must: bool
    parallel: bool


# ---- what is asked -------------------------------------------------------------------------------------------------


def answer_form(response_format: Any, grammar: str | Grammar | None) -> AnswerForm | None:
    """Check what a request asks of the content; None if it asks for nothing.

    Args:
        response_format: OpenAI's `{"type": "text"}`, `{"type": "json_object"}`, or `{"type": "json_schema",
            "json_schema": {"schema": {...}}}`; llama.cpp's `{"type": "json_object", "schema": {...}}`; `{"type":
            "regex", "regex": ...}`, likewise lark and gbnf, or `{"type": "grammar", "syntax": ..., "definition": ...}`;
            a class of pydantic or another type.
        grammar: a `Grammar`, or the text of one in GBNF.

    Raises:
        GrammarError: both are given, or one is malformed or cannot be enforced.
        MissingDependencyError: llguidance or pydantic is not installed.

    """
    if response_format is None:
        return None if grammar is None else _grammar_form(grammar)
    if grammar is not None:
        raise GrammarError("response_format and grammar: both are given; give one of them")
    if isinstance(response_format, Grammar):
        return _grammar_form(response_format)
    if not isinstance(response_format, Mapping):
        if isinstance(response_format, str | bytes | int | float | list | tuple):
            raise GrammarError(
                f"response_format: {str(response_format)[:40]!r} is not a form; use {FORMATS}, or a type"
            )
        return _schema_form(python_type(response_format))
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "grammar":
        return _grammar_form(Grammar(response_format.get("syntax", "gbnf"), response_format.get("definition", "")))
    if kind in ("regex", "lark", "gbnf"):
        return _grammar_form(Grammar(kind, response_format.get(kind, response_format.get("definition", ""))))
    if kind == "json_object":
        schema = response_format.get("schema", JSON_OBJECT)
    elif kind == "json_schema":
        inner = response_format.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else response_format.get("schema")
    else:
        raise GrammarError(f"response_format: {str(kind)[:40]!r} is not {FORMATS}; use one of them")
    if not isinstance(schema, Mapping | bool):
        raise GrammarError("response_format: has no JSON schema; give an object")
    return _schema_form(schema_type(schema))


def _schema_form(wanted: AnswerType) -> AnswerForm:
    checked = json_schema.check(wanted.schema, WHERE)
    json_grammar(checked, WHERE)
    return AnswerForm(checked=checked, type=wanted)


def _grammar_form(grammar: str | Grammar) -> AnswerForm:
    if isinstance(grammar, Grammar):
        return AnswerForm(grammar)
    if not isinstance(grammar, str):
        raise GrammarError(f"grammar: {str(grammar)[:40]!r} is not a text; give GBNF, or a Grammar")
    return AnswerForm(Grammar("gbnf", grammar))


def call_form(tools: Sequence[Mapping[str, Any]] | None, tool_choice: Any, parallel: Any) -> CallForm | None:
    """Check which tools may or must be called; None if none may.

    Args:
        tools: as `check_tools` returns them.
        tool_choice: OpenAI's "auto", "none", "required", or an object that names a function.
        parallel: OpenAI's `parallel_tool_calls`; None: True.

    Raises:
        ToolError: the choice is malformed, names a tool that is not in the request, or a schema cannot be enforced.

    """
    if not isinstance(parallel, bool | None):
        raise ToolError("parallel_tool_calls: is neither true nor false; give one of them")
    name = None
    if isinstance(tool_choice, Mapping):
        inner = tool_choice.get("function", tool_choice)
        name = inner.get("name") if isinstance(inner, Mapping) else None
    must = name is not None or tool_choice == "required"
    known = [tool["function"]["name"] for tool in tools or ()]
    free = tool_choice in (None, "auto", "none")
    if not (free or (must and known and name in (None, *known))):
        raise ToolError(f"tool_choice: {printable(str(tool_choice))} is not auto, none, required or one of the tools")
    if not tools or tool_choice == "none":
        return None
    return CallForm(tool_grammar.tool_grammar(tools, name), must, parallel is not False)


# ---- what enforces it ----------------------------------------------------------------------------------------------


def answer_mask(grammars: TokenGrammars, form: AnswerForm | None, calls: CallForm | None = None) -> TokenMask | None:
    """Make the mask of an answer, without its thinking; None if it may be any text.

    Raises:
        GrammarError: a grammar cannot be compiled.
        MessageError: a call is asked for, and a form of the content, too.

    """
    if form is None:
        return None if calls is None else _calls_mask(grammars, calls)
    if calls is not None and calls.must:
        raise MessageError("tool_choice: cannot be forced together with a form of the answer; leave one of them out")
    if form.grammar is not None:
        return _grammar_mask(grammars, form.grammar)
    assert form.checked is not None
    if calls is None:
        rules = json_grammar(form.checked, WHERE)
    else:
        content = f"content: %json {json.dumps(json_document(form.checked, form.checked.schema))}\n"
        tags = grammars.vocabulary.tags
        rules = lark_grammar(tool_grammar.calls_rules(calls.grammar, tags, parallel=calls.parallel, content=content))
    mask = GrammarMask(grammars.matcher(rules, WHERE), grammars.vocabulary.size)
    if not form.checked.has_unique_items:
        return mask
    return UniqueItemsMask(mask, form.checked, grammars.vocabulary)


def _grammar_mask(grammars: TokenGrammars, grammar: Grammar) -> TokenMask:
    mask = GrammarMask(grammars.matcher(_rules(grammar)), grammars.vocabulary.size)
    mask.allowed()  # raises where nothing at all is
    return mask


def _rules(grammar: Grammar) -> str:
    """Return a grammar as `TokenGrammars.matcher` takes it."""
    if grammar.syntax == "gbnf":
        return lark_grammar(gbnf.lark_rules(grammar.definition))
    if grammar.syntax == "lark":
        if len(_LARK_RULE.findall(grammar.definition)) > gbnf.MAX_RULES:
            raise GrammarError(f"grammar: it has more than {gbnf.MAX_RULES} rules; use fewer")
        return lark_grammar(grammar.definition)
    try:
        return regex_grammar(patterns.translate(grammar.definition))
    except GrammarError as error:
        raise GrammarError(f"grammar: the regular expression cannot be used ({error}); write it without") from None


def _calls_mask(grammars: TokenGrammars, calls: CallForm) -> TokenMask | None:
    vocabulary = grammars.vocabulary
    if calls.must:
        rules = tool_grammar.calls_rules(calls.grammar, vocabulary.tags, parallel=calls.parallel)
        return GrammarMask(grammars.matcher(lark_grammar(rules), "tools"), vocabulary.size)
    trigger = next((token for token, tag in vocabulary.tags.items() if tag == TOOL_CALL), None)
    if trigger is None:  # the vocabulary has no tag, so that no token begins a call
        return None
    rules = tool_grammar.call_rules(calls.grammar, vocabulary.tags)
    mask = GrammarMask(grammars.matcher(lark_grammar(rules), "tools"), vocabulary.size)
    return TriggeredMask(mask, trigger, endings=None if calls.parallel else grammars.endings)
