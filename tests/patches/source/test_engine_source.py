"""The source of the engine: one version, bindings under their own name, libraries that nobody else has."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

import engine_source
import sdist


@pytest.mark.unit
def test_the_version_is_that_of_the_source_and_of_the_series() -> None:
    assert engine_source.engine_version().startswith(f"{sdist.VERSION}.post")


@pytest.mark.slow
def test_the_source_is_complete_and_imports_nothing_of_llama_cpp_python(tmp_path: Path) -> None:
    source = engine_source.write_source(tmp_path)
    version = engine_source.engine_version()
    assert [path.name for path in tmp_path.iterdir()] == [f"qwen35_engine-{version}"]
    assert f'version = "{version}"' in (source / "pyproject.toml").read_text()
    assert (source / "vendor/llama.cpp/ggml/src/ggml_ops/llama_cpp/kernels.cmake").is_file()
    assert not (source / "vendor/llama.cpp/models").exists()
    modules = sorted((source / "qwen35_engine").glob("*.py"))
    assert {file.name for file in modules} >= {"__init__.py", "llama_cpp.py", "mtmd_cpp.py", "qwen35_patches.py"}
    for file in modules:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or not (node.module or "").startswith("llama_cpp")
            elif isinstance(node, ast.Import):
                assert all(not name.name.startswith("llama_cpp") for name in node.names)
    assert "load_shared_library(_lib_base_name, _base_path)" in (source / "qwen35_engine/llama_cpp.py").read_text()
    assert '_lib_base_name = "qwen35-llama"' in (source / "qwen35_engine/llama_cpp.py").read_text()
    assert '_libmtmd_base_name = "qwen35-mtmd"' in (source / "qwen35_engine/mtmd_cpp.py").read_text()
    shutil.rmtree(source)
