"""The signature of a function whose keywords are the fields of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def with_fields_of(options: type, names: Sequence[str] | None = None) -> Callable[[Function], Function]:
    """Let `inspect.signature` and `help` of a function show the fields of options in place of `**keywords`."""

    def decorate(function: Function) -> Function:
        shown = inspect.signature(function)
        own = [each for each in shown.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        wanted = [each for each in fields(options) if each.name not in shown.parameters]
        added = [
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for each in wanted
            if names is None or each.name in names
        ]
        function.__signature__ = shown.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return function

    return decorate
