"""The keywords of objects, as `schema_walk` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen35_gguf.runtime.chat.structured.schema_values import check_count, check_names, check_pattern, check_text
from qwen35_gguf.runtime.chat.structured.schema_walk import Rewrite, Schema, Walk, escape

# With them a schema takes more properties into account than its own.
IN_PLACE = ("allOf", "anyOf", "oneOf", "$ref", "dependentSchemas", "dependencies")


# Patterns of names in a schema: llguidance takes time that grows with the fourth power of their number in one object,
# and `allOf` makes one object of several.
MAX_PATTERNS = 128


def _named(walk: Walk, value: Any, path: str, keyword: str) -> dict[str, Schema]:
    if not isinstance(value, dict):
        raise walk.error(path, keyword, "is not an object", "give schemas by name")
    return {
        check_text(walk, key, path, keyword): walk.schema(inner, f"{path}/{keyword}/{escape(key)}")
        for key, inner in value.items()
    }


def _properties(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    made["properties"] = _named(walk, value, path, "properties")
    return []


def _pattern_properties(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    found = _named(walk, value, path, "patternProperties")
    _count_patterns(walk, len(found), path, "patternProperties")
    made["patternProperties"] = {
        check_pattern(walk, key, path, "patternProperties"): inner for key, inner in found.items()
    }
    return []


def _count_patterns(walk: Walk, more: int, path: str, keyword: str) -> None:
    walk.name_patterns += more
    if walk.name_patterns > MAX_PATTERNS:
        why = f"makes more than {MAX_PATTERNS} patterns of names in the schema, which take too long"
        raise walk.error(path, keyword, why, "use fewer, or properties")


def _additional_properties(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    made.setdefault("additionalProperties", walk.schema(value, f"{path}/additionalProperties"))
    return []


def _unevaluated_properties(
    walk: Walk, given: Mapping[str, Any], value: Any, path: str, made: dict[str, Any]
) -> list[Schema]:
    if value is not True and any(keyword in given for keyword in IN_PLACE):
        raise walk.error(
            path, "unevaluatedProperties", "beside other schemas is not supported", "use additionalProperties"
        )
    if "additionalProperties" not in given:
        made["additionalProperties"] = walk.schema(value, f"{path}/unevaluatedProperties")
    return []


def _property_names(walk: Walk, given: Mapping[str, Any], value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    """Turn restrictions of names into `properties` or `patternProperties`."""
    allowed = walk.definition(walk.schema(value, f"{path}/propertyNames"))
    rest = {key: inner for key, inner in allowed.items() if key != "type"} if isinstance(allowed, dict) else {}
    if allowed is True or (isinstance(allowed, dict) and not rest and allowed.get("type", "string") == "string"):
        return []
    known = sorted(set(given) & {"properties", "patternProperties"})
    if known:
        raise walk.error(path, "propertyNames", f"beside {known[0]} is not supported", "leave one of them out")
    others = walk.schema(given.get("additionalProperties", True), f"{path}/additionalProperties")
    names = rest.get("enum", [rest["const"]] if "const" in rest else None)
    if names is not None and len(rest) == 1:
        made["properties"] = {name: others for name in names if isinstance(name, str)}
    elif set(rest) == {"pattern"}:
        _count_patterns(walk, 1, path, "propertyNames")
        made["patternProperties"] = {rest["pattern"]: others}
    elif rest and set(rest) <= {"minLength", "maxLength"}:
        _count_patterns(walk, 1, path, "propertyNames")
        length = f"{{{rest.get('minLength', 0)},{rest.get('maxLength', '')}}}"
        made["patternProperties"] = {rf"^[\s\S]{length}$": others}
    elif allowed is False:
        made["properties"] = {}
    else:
        raise walk.error(path, "propertyNames", f"with {', '.join(rest)} is not supported", "use pattern or enum")
    made["additionalProperties"] = False
    return []


def _required(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    made["required"] = list(dict.fromkeys(check_names(walk, value, path, "required")))
    return []


def _min_properties(walk: Walk, given: Mapping[str, Any], value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    count = check_count(walk, value, path, "minProperties")
    required, optional = given.get("required"), given.get("properties")
    if count <= (len(set(required)) if isinstance(required, list) else 0):
        return []
    if count > 1:  # a repeated key would count twice
        raise walk.error(path, "minProperties", f"{count} is not supported, above the required names", "use required")
    if isinstance(optional, dict) and optional and given.get("additionalProperties") is False:
        return [{"anyOf": [{"required": [name]} for name in optional]}]
    made["minProperties"] = count
    return []


def _max_properties(walk: Walk, _given: Any, value: Any, path: str, made: dict[str, Any]) -> list[Schema]:
    made["maxProperties"] = check_count(walk, value, path, "maxProperties")
    return []


def _dependencies(keyword: str) -> Rewrite:
    def rewrite(walk: Walk, _given: Any, value: Any, path: str, _made: Any) -> list[Schema]:
        """Either the property is absent, or what it asks for holds."""
        if not isinstance(value, dict):
            raise walk.error(path, keyword, "is not an object", "give names or schemas by name")
        found: list[Schema] = []
        for name, needed in value.items():
            check_text(walk, name, path, keyword)
            if isinstance(needed, list):
                wanted: Schema = {"required": check_names(walk, needed, path, keyword)}
            else:
                wanted = walk.schema(needed, f"{path}/{keyword}/{escape(name)}")
            found.append({"anyOf": [{"properties": {name: False}}, {"allOf": [{"required": [name]}, wanted]}]})
        return found

    return rewrite


KEYWORDS: dict[str, Rewrite] = {
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "unevaluatedProperties": _unevaluated_properties,
    "propertyNames": _property_names,
    "required": _required,
    "minProperties": _min_properties,
    "maxProperties": _max_properties,
    **{keyword: _dependencies(keyword) for keyword in ("dependentRequired", "dependentSchemas", "dependencies")},
}
