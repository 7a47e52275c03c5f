"""JSON schemas of every keyword that is enforced, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from qwen35_gguf.runtime.chat.structured import formats

TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "🎉x",
            'say "hi"',
            "back\\slash",
            "line\nbreak",
            "tab\t",
            "é",
            "日本",
            "\x00\x1f",
            "</tool_call>",
            "a/b~c%",
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
NAMES = st.one_of(st.sampled_from(["a", "b", "c", "ab", ""]), TEXTS)
PATTERNS = st.sampled_from(
    [
        r"^\d{2,4}$",
        r"a|b",
        r"^[a-f]+$",
        r"^\w+\s\S+$",
        r"x.*y",
        r"^[^\d\"]{1,3}$",
        r"^\W$",
        r"[\\\"/]",
        r"^$",
        r"^(ab)*c?$",
    ]
)
NUMBERS = st.one_of(st.integers(-1000, 1000), st.sampled_from([0.5, -0.25, 1.5, 99.75, 0.1, 2**40, -(2**40)]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.sampled_from([0.5, -1.25, 3.75]), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=4,
)


@st.composite
def _strings(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "string"}
    kind = draw(st.integers(0, 3))
    if kind == 1:
        made["pattern"] = draw(PATTERNS)
    elif kind == 2:
        made["format"] = draw(st.sampled_from(sorted({*formats.PATTERNS, *formats.ANY_STRING})))
    else:
        low = draw(st.integers(0, 5))
        made |= {"minLength": low, "maxLength": low + draw(st.integers(0, 10))}
    return made


@st.composite
def _numbers(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    for keyword, value in (("minimum", low), ("maximum", high), ("exclusiveMinimum", low), ("exclusiveMaximum", high)):
        if draw(st.integers(0, 2)) == 0:
            made[keyword] = value
    if draw(st.integers(0, 3)) == 0:
        made["multipleOf"] = draw(st.sampled_from([1, 2, 3, 7, 100, 0.5, 0.25]))
    return made


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "array"}
    if draw(st.booleans()):
        made["items"] = draw(inner)
    if draw(st.integers(0, 2)) == 0:
        made["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=3))
    if draw(st.booleans()):
        low = draw(st.integers(0, 2))
        made |= {"minItems": low, "maxItems": low + draw(st.integers(0, 3))}
    if draw(st.integers(0, 2)) == 0:
        made["uniqueItems"] = draw(st.booleans())
    return made


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object"}
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    if names:
        made["properties"] = {name: draw(inner) for name in names}
    if draw(st.booleans()):
        made["required"] = draw(st.lists(st.sampled_from([*names, "other"]), max_size=3, unique=True))
    made["additionalProperties"] = draw(st.one_of(st.just(False), st.just(False), st.booleans(), inner))
    kind = draw(st.integers(0, 7))
    if kind == 0:
        made["patternProperties"] = {draw(st.sampled_from(["^p", r"^\d+$"])): draw(inner)}
    elif kind == 1 and not names:
        made["propertyNames"] = draw(st.sampled_from([{"enum": ["x", "y"]}, {"pattern": "^[ab]+$"}, {"maxLength": 2}]))
        made.pop("required", None)
    elif kind == 2 and len(names) > 1:
        made["dependentRequired"] = {names[0]: names[1:2]}
    elif kind == 3 and names:
        made["dependentSchemas"] = {names[0]: {"properties": {names[-1]: draw(inner)}}}
    elif kind == 4:
        made |= {"minProperties": draw(st.integers(0, 1)), "maxProperties": draw(st.integers(1, 4))}
    return made


def _unions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, min_size=1, max_size=3)
    tagged = st.lists(st.sampled_from(["cat", "dog", "cow"]), min_size=1, max_size=3, unique=True).flatmap(
        lambda tags: st.tuples(*(inner for _ in tags)).map(
            lambda made: {
                "oneOf": [
                    {"type": "object", "properties": {"kind": {"const": tag}, "of": of}, "required": ["kind"]}
                    for tag, of in zip(tags, made, strict=True)
                ]
            }
        )
    )
    return st.one_of(
        lists.map(lambda made: {"anyOf": made}),
        lists.map(lambda made: {"allOf": made}),
        tagged,
        st.just({"$ref": "#/$defs/tree"}),
        st.just({"$ref": "#/$defs/0~1%22"}),
        st.just({"type": ["integer", "null"]}),
    )


LEAVES = st.one_of(
    _strings(),
    _numbers(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": None}]),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
)
DEFINITIONS = {
    "tree": {
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/tree"}, "of": {"type": "boolean"}},
        "required": ["of"],
    },
    '0/"': {"type": "string", "maxLength": 3, "title": "named"},
}
SCHEMAS = st.recursive(
    LEAVES, lambda inner: st.one_of(_arrays(inner), _objects(inner), _unions(inner)), max_leaves=6
).map(lambda schema: {**schema, "$defs": DEFINITIONS})
