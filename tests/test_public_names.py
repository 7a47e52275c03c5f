"""The public names of the package: each can be had, and type checkers see what is imported only when it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import qwen35_gguf
from qwen35_gguf import errors

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", qwen35_gguf.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(qwen35_gguf, name) is not None
    assert name in dir(qwen35_gguf)


def test_every_error_is_public() -> None:
    classes = {value.__name__ for value in vars(errors).values() if isinstance(value, type)}
    assert classes <= set(qwen35_gguf.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'qwen35_gguf' has no attribute 'nothing'"):
        qwen35_gguf.nothing  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(qwen35_gguf.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname or alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported | {"__version__"} == set(qwen35_gguf.__all__)


def test_the_import_loads_neither_numpy_nor_llama_cpp() -> None:
    code = "import qwen35_gguf, sys; print(sorted({'numpy', 'gguf', 'llama_cpp', 'click', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
