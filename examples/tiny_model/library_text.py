"""Python code that every Python carries: functions of its own standard library, one document each.

Copyright Python Software Foundation, PSF licence version 2. The text depends on the version of Python.
"""

from __future__ import annotations

import ast
import sysconfig
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

HELD_OUT_EVERY = 20  # one module in this many is never trained on
SHORTEST, LONGEST = 200, 1500  # characters of a function


@lru_cache(maxsize=2)
def functions(*, held_out: bool) -> tuple[str, ...]:
    """Return the source of functions and methods, without their indentation, in the order of modules' names."""
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    chosen = [path for number, path in enumerate(modules) if (number % HELD_OUT_EVERY == 0) == held_out]
    found = [text for path in chosen for text in _functions(path.read_text(encoding="utf-8"))]
    return tuple(dict.fromkeys(found))


def _functions(source: str) -> Iterator[str]:
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            text = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            if SHORTEST <= len(text) <= LONGEST and text.isascii():
                yield text
