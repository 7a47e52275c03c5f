"""The check of sizes: what is too long, too many, or without `__init__.py` is named."""

from __future__ import annotations

from pathlib import Path

import pytest

import structure

pytestmark = pytest.mark.unit


def test_a_good_tree_has_no_problems() -> None:
    files = {"quant/__init__.py": 5, "quant/recipes.py": 400, "tests/quant/test_recipes.py": 10}
    assert list(structure.problems(files, {})) == []


def test_long_files_full_folders_and_missing_init_files_are_named() -> None:
    files = {f"quant/a{i}.py": 1 for i in range(16)} | {"ggml_ops/a.h": 401, "bench/b.py": 500}
    assert list(structure.problems(files, {"bench/b.py": "a reason", "bench/c.py": "another"})) == [
        "ggml_ops/a.h: 401 lines, more than 400; split it by what changes together",
        "bench/c.py: is not over 400 lines; remove it from LONG_FILES",
        "quant: 16 modules, more than 15; make a subpackage",
        "quant: has no __init__.py; add one with a docstring",
    ]


def test_only_code_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1\n2\n", encoding="utf-8")
    (tmp_path / "a.md").write_text("1\n", encoding="utf-8")
    assert structure.count_lines(["a.py", "a.md", "gone.py"], tmp_path) == {"a.py": 2}
