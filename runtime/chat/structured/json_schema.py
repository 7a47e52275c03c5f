"""Check a JSON schema keyword by keyword, and rewrite it to what the masks enforce.

What a schema says is enforced or refused with the keyword and its path; annotations are dropped. Some rewritten schemas
allow less than the given one, so that every answer is valid by it: whole numbers without bounds have at most 18 digits,
keys come in the order of the schema.

Sources: JSON Schema 2020-12 and draft-07; OpenAPI 3.0 for `nullable`, `discriminator` and formats of numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.structured import formats, object_keywords
from qwen35_gguf.runtime.chat.structured.schema_values import check_count, check_number, check_pattern, check_values
from qwen35_gguf.runtime.chat.structured.schema_walk import UNIQUE, CheckedSchema, Rewrite, Schema, Walk

# They describe, and restrict nothing; `$defs` are read where they are referred to.
ANNOTATIONS = (
    *("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment"),
    *("$schema", "$anchor", "$vocabulary", "contentEncoding", "contentMediaType", "contentSchema"),
    *("discriminator", "externalDocs", "xml", "$defs", "definitions"),
)
# They count or negate over a whole value, which no mask of single tokens can.
REFUSED = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "unevaluatedItems"),
    *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"),
)
TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")
MAX_INTEGER = 10**18  # of whole numbers without bounds: their digits end, and fit into 64 bits
MAX_FACTOR = 10**6


def check(schema: Any, where: str = "JSON schema") -> CheckedSchema:
    """Check a schema and rewrite it.

    Args:
        schema: types of JSON; tuples are arrays.
        where: begins the messages.

    Raises:
        GrammarError: it is not a schema, or has a keyword that cannot be enforced.

    """
    try:
        root = json.loads(json.dumps(schema, allow_nan=False))
        walk = Walk(root, where, KEYWORDS)
        walk.result.schema = walk.schema(root, "#")
    except (TypeError, ValueError, RecursionError):
        raise GrammarError(f"{where}: is not JSON, or nested too deeply; give objects, lists, texts, numbers") from None
    return walk.result


def _annotation(_walk: Walk, _given: Any, _value: Any, _path: str, _made: Any) -> list[Schema]:
    return []


def _refused(keyword: str) -> Rewrite:
    def refuse(walk: Walk, _given: Any, _value: Any, path: str, _made: Any) -> list[Schema]:
        raise walk.error(path, keyword, "is not supported", "leave it out")

    return refuse


# ---- values of any type --------------------------------------------------------------------------------------------


def _type(walk: Walk, given: Mapping[str, Any], value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    kinds = value if isinstance(value, list) and value else [value]
    for name in kinds:
        if name not in TYPES:
            raise walk.error(path, "type", f"is {str(name)[:40]!r}", f"use {', '.join(TYPES)}")
    if given.get("nullable") is True and "null" not in kinds:  # OpenAPI
        kinds = [*kinds, "null"]
    made["type"] = kinds if len(kinds) > 1 else kinds[0]
    bounded = {"enum", "const", "multipleOf"} & set(given)
    if "integer" in kinds and "number" not in kinds and not bounded:
        if not {"minimum", "exclusiveMinimum"} & set(given):
            made["minimum"] = -MAX_INTEGER
        if not {"maximum", "exclusiveMaximum"} & set(given):
            made["maximum"] = MAX_INTEGER
    return []


def _enum(walk: Walk, given: Mapping[str, Any], value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    if not isinstance(value, list) or not value:
        raise walk.error(path, "enum", "is not a list of values", "give one that is not empty")
    check_values(walk, value, path, "enum")
    made["enum"] = [*value, None] if given.get("nullable") is True and None not in value else value
    return []


def _const(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    made["const"] = check_values(walk, value, path, "const")
    return []


def _nullable(walk: Walk, _given: Any, value: Any, path: str, _made: Any) -> list[Schema]:
    if not isinstance(value, bool):
        raise walk.error(path, "nullable", "is neither true nor false", "give one of them")
    return []


def _ref(walk: Walk, _given: Any, value: Any, path: str, _made: Any) -> list[Schema]:
    return [walk.reference(value, path)]


def _identity(keyword: str) -> Rewrite:
    def rewrite(walk: Walk, _given: Any, value: Any, path: str, _made: Any) -> list[Schema]:
        if path != "#" and not (isinstance(value, str) and value.startswith("#")):  # it would move references
            raise walk.error(path, keyword, "inside of a schema is not supported", "leave it out")
        return []

    return rewrite


def _schemas(walk: Walk, value: Any, path: str, keyword: str) -> list[Schema]:
    if not isinstance(value, list) or not value:
        raise walk.error(path, keyword, "is not a list of schemas", "give one that is not empty")
    return [walk.schema(inner, f"{path}/{keyword}/{number}") for number, inner in enumerate(value)]


def _any_of(walk: Walk, given: Mapping[str, Any], value: Any, path: str, _made: Any) -> list[Schema]:
    branches = _schemas(walk, value, path, "anyOf")
    if given.get("nullable") is True and "type" not in given:
        branches.append({"type": "null"})
    return [{"anyOf": branches}]


def _all_of(walk: Walk, _given: Any, value: Any, path: str, _made: Any) -> list[Schema]:
    return _schemas(walk, value, path, "allOf")


def _differ(branches: list[Any]) -> bool:
    """Whether all branches are scalar constants, as those of an enum with titles, and none is in two of them."""
    sets: list[set[tuple[bool, Any]]] = []
    for branch in branches:
        if not isinstance(branch, Mapping):
            return False
        null = [None] if branch.get("type") == "null" else []
        values = [branch["const"]] if "const" in branch else branch.get("enum", null)
        if not values or not all(isinstance(each, str | int | float | None) for each in values):
            return False
        sets.append({(isinstance(each, bool), each) for each in values})  # True is not 1, but 1.0 is
    return sum(map(len, sets)) == len(set().union(*sets))


def _one_of(walk: Walk, given: Mapping[str, Any], value: Any, path: str, _made: Any) -> list[Schema]:
    """Rewrite `oneOf`; the property that tells the branches of a discriminated union apart is required."""
    branches = _schemas(walk, value, path, "oneOf")
    named = given.get("discriminator")
    tag = named.get("propertyName") if isinstance(named, dict) else None
    if isinstance(tag, str):
        branches = [{"allOf": [branch, {"required": [tag]}]} for branch in branches]
    if len(branches) == 1:
        return branches
    if _differ(value):
        return [{"anyOf": branches}]
    union: Schema = {"oneOf": branches}
    walk.result.places.append((f"{path}/oneOf", union))
    return [union]


# ---- texts and numbers ---------------------------------------------------------------------------------------------


def _pattern(walk: Walk, _given: Any, value: Any, path: str, _made: Any) -> list[Schema]:
    wanted: Schema = {"pattern": check_pattern(walk, value, path, "pattern")}
    walk.result.places.append((f"{path}/pattern", wanted))
    return [wanted]


def _format(walk: Walk, given: Mapping[str, Any], value: Any, path: str, _made: Any) -> list[Schema]:
    if not isinstance(value, str):
        raise walk.error(path, "format", "is not a text", "give a name")
    if value in formats.NUMBERS:
        limits = formats.NUMBERS[value]
        return [{"minimum": limits[0], "maximum": limits[1]}] if limits else []
    if value in formats.PATTERNS:
        return [{"pattern": f"^(?:{formats.PATTERNS[value]})$"}]
    if value in formats.ANY_STRING or given.get("type") in ("array", "object", "boolean", "null"):
        return []
    raise walk.error(path, "format", f"is {value[:40]!r}, which is not supported", "use pattern, or leave it out")


def _bound(keyword: str) -> Rewrite:
    def rewrite(walk: Walk, given: Mapping[str, Any], value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
        if isinstance(value, bool) and keyword.startswith("exclusive"):  # draft-04
            plain = keyword.replace("exclusiveM", "m")
            if value and plain in given:
                made[keyword] = check_number(walk, given[plain], path, plain)
        else:
            made[keyword] = check_number(walk, value, path, keyword)
        return []

    return rewrite


def _multiple_of(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    number = check_number(walk, value, path, "multipleOf")
    if not 0 < number <= MAX_FACTOR:
        raise walk.error(path, "multipleOf", f"is {number!r}", f"use a number above 0, at most {MAX_FACTOR}")
    if (number * 1024) % 1:
        why = f"is {number!r}, about whose multiples validators disagree, since it is not a binary fraction"
        raise walk.error(path, "multipleOf", why, "use a whole number or a fraction such as 0.5")
    made["multipleOf"] = number
    return []


def _count(keyword: str) -> Rewrite:
    def rewrite(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
        made[keyword] = check_count(walk, value, path, keyword)
        return []

    return rewrite


# ---- arrays --------------------------------------------------------------------------------------------------------


def _items(walk: Walk, given: Mapping[str, Any], value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    if not isinstance(value, list):
        made["items"] = walk.schema(value, f"{path}/items")
        return []
    made["prefixItems"] = _schemas(walk, value, path, "items") if value else []  # draft-07
    made["items"] = walk.schema(given.get("additionalItems", True), f"{path}/additionalItems")
    return []


def _prefix_items(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    made["prefixItems"] = _schemas(walk, value, path, "prefixItems")
    return []


def _unique_items(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    if not isinstance(value, bool):
        raise walk.error(path, "uniqueItems", "is neither true nor false", "give one of them")
    if value:
        made[UNIQUE] = walk.result.has_unique_items = True
    return []


KEYWORDS: dict[str, Rewrite] = {
    **dict.fromkeys(ANNOTATIONS, _annotation),
    **{keyword: _refused(keyword) for keyword in REFUSED},
    "type": _type,
    "enum": _enum,
    "const": _const,
    "nullable": _nullable,
    "$ref": _ref,
    "$id": _identity("$id"),
    "id": _identity("id"),
    "anyOf": _any_of,
    "allOf": _all_of,
    "oneOf": _one_of,
    "pattern": _pattern,
    "format": _format,
    **{keyword: _bound(keyword) for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")},
    "multipleOf": _multiple_of,
    **{keyword: _count(keyword) for keyword in ("minLength", "maxLength", "minItems", "maxItems")},
    "items": _items,
    "prefixItems": _prefix_items,
    "additionalItems": _annotation,  # beside a list of `items` only
    "uniqueItems": _unique_items,
    **object_keywords.KEYWORDS,
}
