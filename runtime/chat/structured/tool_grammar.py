r"""The grammar of tool calls in Qwen3.5's markup, made of the tools' schemas.

A call is `\n<function=NAME>\n`, its parameters in the order of the schema, `</function>\n` and `</tool_call>`, after
the token `<tool_call>`; see `chat.tool_calls`. A parameter of type string is raw text without `</parameter>`; of other
types JSON.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen35_gguf.architecture.tags import END_TOOL_CALL, TOOL_CALL
from qwen35_gguf.errors import GrammarError, ToolError
from qwen35_gguf.json_file import printable
from qwen35_gguf.runtime.chat.structured import json_schema
from qwen35_gguf.runtime.chat.structured.by_digest import ByDigest
from qwen35_gguf.runtime.chat.structured.patterns import literal, whole
from qwen35_gguf.runtime.chat.structured.schema_walk import CheckedSchema, Schema
from qwen35_gguf.runtime.chat.structured.token_grammars import (
    byte_matcher,
    is_empty,
    is_possible,
    json_document,
    lark_grammar,
)

ANY_TEXT = r"[\s\S]*"
END = "</parameter>"
WITH_END = rf"{ANY_TEXT}<\/parameter>{ANY_TEXT}"
# How the template writes values of Python beside those of JSON.
SPELLED: dict[str, tuple[bool | None, ...]] = {"boolean": (True, False), "null": (None,)}
SPELLINGS = {True: ("true", "True"), False: ("false", "False"), None: ("null", "None")}
OF_PARAMETERS = {"type", "properties", "required", "additionalProperties"}
# What tells the type where it is not given.
IMPLIED = {
    "object": {"properties", "required", "additionalProperties", "patternProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
}
MAX_REFERENCES = 16
MAX_VISITS = 4096  # of schemas, for one parameter


@dataclass(frozen=True)
class ToolGrammar:
    """Rules for calls of some tools.

    Attributes:
        rules: in Lark; `body` is a call from after its opening tag to before its closing one.
        names: of the tools.

    """

    rules: str
    names: tuple[str, ...]


def tool_grammar(tools: Sequence[Mapping[str, Any]], only: str | None = None) -> ToolGrammar:
    """Make the rules for calls.

    Args:
        tools: as `check_tools` returns them; the arguments of one with `"strict": false` are any.
        only: the name of the one that may be called; None: all.

    Raises:
        ToolError: a schema has a keyword that cannot be enforced.

    """
    functions = [tool["function"] for tool in tools if only is None or tool["function"]["name"] == only]
    rules = ['body: "\\n<function=" function "</function>\\n"']
    rules.append("function: " + " | ".join(f"f{number}" for number in range(len(functions))))
    for number, function in enumerate(functions):
        rules += _function(number, function)
    return ToolGrammar("\n".join(rules) + "\n", tuple(function["name"] for function in functions))


def calls_rules(grammar: ToolGrammar, tags: Mapping[int, str], *, parallel: bool, content: str = "") -> str:
    """Return Lark rules for an answer that consists of calls.

    Args:
        grammar: of a call.
        tags: of the vocabulary, by the id of their token.
        parallel: more than one call may come.
        content: a rule for an answer without calls; empty where there must be one.

    """
    opening, closing = (_tag(tag, tags) for tag in (TOOL_CALL, END_TOOL_CALL))
    following = ' ("\\n" call)*' if parallel else ""
    start = f"start: calls{' | content' if content else ''}\ncalls: call{following}\n"
    return f"{start}call: {opening} body {closing}\n{content}{grammar.rules}"


def call_rules(grammar: ToolGrammar, tags: Mapping[int, str]) -> str:
    """Return Lark rules for one call after its opening tag."""
    return f"start: body {_tag(END_TOOL_CALL, tags)}\n{grammar.rules}"


def _tag(tag: str, tags: Mapping[int, str]) -> str:
    found = [token for token, name in tags.items() if name == tag]
    return f"<[{found[0]}]>" if found else json.dumps(tag)


def _quoted(text: str) -> str:
    """Write a text as a literal of Lark."""
    return json.dumps(text, ensure_ascii=False)


def _function(number: int, function: Mapping[str, Any]) -> list[str]:
    name = function["name"]
    where = f"tools: {printable(name)}"
    given = function.get("parameters") or {}
    if function.get("strict") is False:
        checked, loose = CheckedSchema({}), True
    else:
        checked, loose = _checked(given, where), False
    schema = checked.schema if isinstance(checked.schema, dict) else {}
    properties: dict[str, Schema] = schema.get("properties", {})
    required: Iterable[str] = schema.get("required", ())
    if unknown := sorted(set(schema) - OF_PARAMETERS):
        keyword = unknown[0] if unknown[0] != "allOf" else "a combination of schemas"
        raise ToolError(f'{where}: {keyword} at # is not supported; leave it out, or give "strict": false')
    if schema.get("type", "object") != "object":
        raise ToolError(f"{where}: the type of its parameters is not object; correct it")
    if checked.has_unique_items:
        raise ToolError(f'{where}: uniqueItems is not supported for tools; leave it out, or give "strict": false')
    properties = properties | {key: True for key in required if key not in properties}
    rules, parts = [], [_quoted(f"{name}>\n")]
    for place, (key, wanted) in enumerate(properties.items()):
        if wanted is False:
            continue
        rule = f"p{number}_{place}"
        if re.search(r"[>\n]", key) or not key.strip() or key != key.strip():
            raise ToolError(f"{where}: the name of parameter {key[:60]!r} cannot be written in a tag; rename it")
        rules.append(f"{rule}: {_quoted(f'<parameter={key}>' + chr(10))} {rule}_value")
        rules += _parameter(f"{rule}_value", checked, wanted, f"{where}: parameter {printable(key)}")
        parts.append(rule if key in required else f"{rule}?")
    others = schema.get("additionalProperties", loose or None)
    if others not in (None, False):
        rule = f"p{number}_other"
        taken = "".join(f" & ~/{literal(key)}/" for key in properties)
        rules.append(f'{rule}: "<parameter=" {rule.upper()}_NAME ">\\n" {rule}_value')
        rules.append(rf"{rule.upper()}_NAME: /[^>\n\s<][^>\n\s<]{{0,63}}/{taken}")
        rules += _parameter(f"{rule}_value", checked, others, f"{where}: additionalProperties")
        parts.append(f"{rule}*")
    return [f"f{number}: {' '.join(parts)}", *rules]


def _checked(given: Any, where: str) -> CheckedSchema:
    try:
        return json_schema.check(given, where)
    except GrammarError as error:
        text = str(error)
        raise ToolError(f'{text}, or give the function "strict": false') from None


# ---- values --------------------------------------------------------------------------------------------------------


def _parameter(rule: str, checked: CheckedSchema, schema: Schema, where: str) -> list[str]:
    """Return the rules of a value with its closing tag."""
    try:
        alternatives = _alternatives(checked, schema, itertools.count())
    except GrammarError as error:
        raise ToolError(f'{where}: {error}, or give the function "strict": false') from None
    if not alternatives:
        raise ToolError(f"{where} cannot have any value; correct its schema")
    alternatives = [(kind, _ending(inner) if kind == "text" else inner) for kind, inner in alternatives]
    reason = _reason("\n".join(["start: value", *_value_rules("value", alternatives)]) + "\n")
    if reason:
        raise ToolError(f'{where}{reason}, or give the function "strict": false')
    return _value_rules(rule, alternatives)


def _value_rules(rule: str, alternatives: Iterable[tuple[str, str]]) -> list[str]:
    """Write a rule for a value that is one of some alternatives, and the rules that it needs."""
    terminals: list[str] = []
    choices: list[str] = []
    for kind, inner in alternatives:
        if kind == "text":
            terminal = f"{rule.upper()}_{len(terminals)}"
            terminals.append(f'{terminal}: ({inner}) "\\n</parameter>\\n"')
            choices.append(terminal)
        elif kind == "literal":
            choices.append(f'({inner}) "\\n</parameter>\\n"')
        else:
            choices.append(f'{rule}_json{len(choices)} "\\n</parameter>\\n"')
            terminals.append(f"{choices[-1].split()[0]}: %json {inner}")
    return [f"{rule}: {' | '.join(choices)}", *terminals]


@ByDigest
def _reason(rules: str) -> str:
    """Compile Lark rules; return why they cannot be used, "" if they can."""
    try:
        byte_matcher(lark_grammar(rules), "")
    except GrammarError as error:
        return str(error)
    return ""


def _visit(visits: Iterator[int]) -> None:
    """Count a schema: some alternatives that refer to others with as many soon are more than can be looked at."""
    if next(visits) > MAX_VISITS:
        raise GrammarError("its schemas have too many alternatives; simplify them")


def _alternatives(
    checked: CheckedSchema, schema: Schema, visits: Iterator[int], depth: int = 0
) -> list[tuple[str, str]]:
    """Split a schema into ways to write it: as text that matches an expression, as literals, as JSON."""
    _visit(visits)
    if isinstance(schema, bool):
        return [("text", f"/{ANY_TEXT}/")] if schema else []
    if depth < MAX_REFERENCES:
        if set(schema) == {"$ref"}:
            inner = checked.definitions[schema["$ref"].rpartition("/")[2]]
            return _alternatives(checked, inner, visits, depth + 1)
        if set(schema) == {"anyOf"} or set(schema) == {"oneOf"}:
            branches = schema.get("anyOf") or schema["oneOf"]
            return [found for branch in branches for found in _alternatives(checked, branch, visits, depth + 1)]
        if set(schema) == {"allOf"} and len(schema["allOf"]) == 1:
            return _alternatives(checked, schema["allOf"][0], visits, depth + 1)
    if "enum" in schema or "const" in schema:
        return _members(checked, schema)
    kinds = schema.get("type")
    if isinstance(kinds, list):
        several = ({**schema, "type": kind} for kind in kinds)
        return [found for one in several for found in _alternatives(checked, one, visits, depth + 1)]
    if kinds == "string":
        return [("text", _expression(checked, schema, visits))]
    if kinds in SPELLED:
        return [("literal", " | ".join(_quoted(text) for value in SPELLED[kinds] for text in SPELLINGS[value]))]
    if kinds is None:
        if not schema:
            return [("text", f"/{ANY_TEXT}/")]
        kinds = next((kind for kind, keywords in IMPLIED.items() if keywords & set(schema)), None)
        if kinds is None:
            raise GrammarError("its schema does not have a type; give one")
        schema = {**schema, "type": kinds}
    return [("json", json.dumps(json_document(checked, schema)))]


def _without_end() -> str:
    """Return the expression of texts without the closing tag, as a plain expression: its masks are fast.

    A bracket begins the tag again wherever it comes, so that a text is made of beginnings of the tag, each broken by
    another character, and of what is outside of them.
    """
    beginning = ""
    for letter in reversed(END[1:-1]):
        beginning = f"(?:{literal(letter)}{beginning})?"
    beginning = f"(?:<{beginning})*"
    broken = "|".join(f"{literal(END[:at])}[^<{literal(END[at])}]" for at in range(1, len(END)))
    return f"(?:[^<]|{beginning}(?:{broken}))*{beginning}"


def _ending(expression: str) -> str:
    """Return the expression of texts without the closing tag, since a value ends at the first."""
    if expression == f"/{ANY_TEXT}/":
        return f"/{_without_end()}/"
    if is_empty(f"{expression} & /{WITH_END}/"):
        return expression
    return f"{expression} & ~/{WITH_END}/"


def _members(checked: CheckedSchema, schema: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the values of `enum` and `const`, texts without quotes."""
    rest = {key: value for key, value in schema.items() if key not in ("enum", "const")}
    texts: list[str] = []
    others: list[Any] = []
    for value in schema.get("enum", [schema.get("const")]):
        if rest and not is_possible(checked, {**rest, "const": value}):
            continue
        if isinstance(value, str):
            if "</parameter>" in value:
                raise GrammarError(f"the value {value[:60]!r} has the tag of its end; change it")
            texts.append(value)
        elif value is None or isinstance(value, bool):
            texts += SPELLINGS[value]
        else:
            others.append(value)
    found = [("literal", " | ".join(map(_quoted, texts)))] if texts else []
    return [*found, ("json", json.dumps(json_document(checked, {"enum": others})))] if others else found


def _expression(checked: CheckedSchema, schema: Schema, visits: Iterator[int], depth: int = 0) -> str:
    """Return the regular expressions that a text matches."""
    _visit(visits)
    if isinstance(schema, bool) or depth > MAX_REFERENCES:
        raise GrammarError("its schemas cannot be combined for a text; simplify them")
    parts = []
    if "pattern" in schema:
        parts.append(f"/{whole(schema['pattern'])}/")
    if "minLength" in schema or "maxLength" in schema:
        parts.append(rf"/[\s\S]{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}/")
    for inner in schema.get("allOf", ()):
        parts.append(_expression(checked, inner, visits, depth + 1))
    if "$ref" in schema:
        parts.append(_expression(checked, checked.definitions[schema["$ref"].rpartition("/")[2]], visits, depth + 1))
    if unknown := sorted({"anyOf", "oneOf", "enum", "const"} & set(schema)):
        raise GrammarError(f"{unknown[0]} beside other keywords is not supported for a text; use one of them")
    return " & ".join(parts) or f"/{ANY_TEXT}/"
