"""Types as the form of an answer: classes of pydantic, and what its TypeAdapter takes.

pydantic is used where it is installed, and not needed by anything else.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from qwen35_gguf.errors import AnswerError, GrammarError, MissingDependencyError

_LARGEST = 1e15  # of numbers without bounds where infinity, as which 1e999 is read, is refused
# After the scheme of an address: a host, perhaps a port and a path.
_ADDRESS = r"://[a-z][a-z0-9]{0,30}(\.[a-z][a-z0-9]{0,30}){1,4}(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._~/-]*)?"


@dataclass(frozen=True)
class AnswerType:
    """How an answer is described and read.

    Attributes:
        name: for messages.
        schema: JSON schema of the answers.
        parse: turns an answer into a value; any exception means that it is not valid.

    """

    name: str
    schema: Any
    parse: Callable[[str], Any]

    def read(self, text: str) -> Any:
        """Turn an answer into a value.

        Raises:
            AnswerError: the type refuses it.

        """
        try:
            return self.parse(text)
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise AnswerError(
                f"answer: is not valid for {self.name} ({reason}); ask again, or relax the type"
            ) from None


def schema_type(schema: Any) -> AnswerType:
    """Make a type of a JSON schema: answers become types of JSON."""
    return AnswerType("its JSON schema", schema, json.loads)


def python_type(wanted: Any) -> AnswerType:
    """Make a type of a class with pydantic's `model_json_schema` and `model_validate_json`, or of any other type.

    Raises:
        GrammarError: it has no JSON schema.
        MissingDependencyError: pydantic is needed for it, and is not installed.

    """
    name = getattr(wanted, "__name__", None) or str(wanted)[:60]
    describe, parse = getattr(wanted, "model_json_schema", None), getattr(wanted, "model_validate_json", None)
    if isinstance(wanted, type) and callable(describe) and callable(parse):
        strict = {"schema_generator": _generator()} if hasattr(wanted, "__pydantic_core_schema__") else {}
        return AnswerType(name, _described(lambda: describe(**strict), name), parse)
    if inspect.isroutine(wanted):
        raise GrammarError(f"response_format: {name} is a function; give a class")
    try:
        import pydantic
    except ImportError:
        message = f"pydantic is needed for answers of type {name}; install it with pip install pydantic"
        raise MissingDependencyError(message) from None
    try:
        adapter: Any = pydantic.TypeAdapter(wanted)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise GrammarError(f"response_format: {name} is not a type of answers ({reason}); give a class") from None
    schema = _described(lambda: adapter.json_schema(schema_generator=_generator()), name)
    return AnswerType(name, schema, adapter.validate_json)


def _described(describe: Callable[[], Any], name: str) -> Any:
    try:
        return describe()
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise GrammarError(f"response_format: {name} has no JSON schema ({reason}); change its fields") from None


def _closed(schema: Any) -> Any:
    """Refuse properties that a class does not name, unless it says that it keeps them."""
    if isinstance(schema, dict) and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


@cache
def _generator() -> Any:
    """Make pydantic's generator of schemas as strict as its validation."""
    from pydantic.json_schema import GenerateJsonSchema

    class Strict(GenerateJsonSchema):
        """Describes what is read, and not what could be."""

        def model_schema(self, schema: Any) -> Any:
            """Describe the fields of a class, and no others, which would be dropped."""
            return _closed(super().model_schema(schema))

        def dataclass_schema(self, schema: Any) -> Any:
            """Describe the fields of a dataclass, and no others."""
            return _closed(super().dataclass_schema(schema))

        def typed_dict_schema(self, schema: Any) -> Any:
            """Describe the keys of a dictionary, and no others."""
            return _closed(super().typed_dict_schema(schema))

        def url_schema(self, schema: Any) -> Any:
            """Describe addresses of the schemes that are read; `format: uri` has many that are not."""
            made = super().url_schema(schema)
            if schemes := schema.get("allowed_schemes"):
                del made["format"]
                made["pattern"] = f"^({'|'.join(map(re.escape, schemes))}){_ADDRESS}$"
            return made

        def decimal_schema(self, schema: Any) -> Any:
            """Describe numbers; digits that are counted need a text."""
            places, digits = schema.get("decimal_places"), schema.get("max_digits")
            limits: Any = {key: float(schema[key]) for key in ("multiple_of", "le", "ge", "lt", "gt") if key in schema}
            if (places is None and digits is None) or limits not in ({}, {"ge": 0.0}):
                if not {"ge", "gt"} & set(limits):
                    limits["ge"] = -_LARGEST
                if not {"le", "lt"} & set(limits):
                    limits["le"] = max(_LARGEST, limits.get("ge", 0.0), limits.get("gt", 0.0))
                limits["type"] = "float"
                return self.float_schema(limits)
            whole = 12 if digits is None else max(digits - (places or 0), 1)
            fraction = f"(\\.[0-9]{{1,{places}}})?" if places else ""
            pattern = f"^{'' if limits else '-?'}(0|[1-9][0-9]{{0,{whole - 1}}}){fraction}$"
            return {"type": "string", "pattern": pattern}

        def dict_schema(self, schema: Any) -> Any:
            """Describe keys that are numbers."""
            made = super().dict_schema(schema)
            kind = schema.get("keys_schema", {}).get("type")
            if kind in ("int", "float", "bool") and "propertyNames" not in made:
                pattern = "^(true|false)$" if kind == "bool" else "^(0|-?[1-9][0-9]{0,15})$"
                made["propertyNames"] = {"pattern": pattern}
            return made

    return Strict
