"""The source of the distribution qwen35-engine: llama.cpp with the patches, and the bindings under another name.

`write_source` makes a folder that pip builds; the version and the number of the series are in the extra `runtime` of
pyproject.toml, and nowhere else.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from build import HERE, patch, series
from sdist import NAME, VERSION, fail, fetch_sdist, unpack

ROOT = HERE.parent
PACKAGE = "qwen35_engine"
BINDINGS = ("_ctypes_extensions.py", "llama_cpp.py", "llama_cpp_ext.py", "mtmd_cpp.py", "py.typed")
# What a build of the libraries reads, for every backend of ggml; the rest of llama.cpp is four fifths of its size.
LLAMA_CPP = (
    "CMakeLists.txt",
    "LICENSE",
    "cmake",
    "ggml",
    "include",
    "licenses",
    "src",
    "tools/mtmd",
    "vendor",
)
# In the bindings, by regular expression: the package, the names of libraries, and variables that lead to the libraries
# of llama-cpp-python.
RENAMED = {
    r"^(\s*)import llama_cpp\.llama_cpp as llama_cpp$": r"\1from . import llama_cpp",
    r"^(\s*)from llama_cpp\.(\w+) import": r"\1from .\2 import",
    r'^_(lib|libmtmd)_base_name = "(\w+)"$': r'_\1_base_name = "qwen35-\2"',
    r'os\.environ\.get\("(?:LLAMA_CPP|MTMD_CPP)_LIB(?:_PATH)?"\)': "None",
}
NOT_NEEDED = ("*.onnx", "*.pdf", "*.png", "*.jpg", "*.mp3", "*.wav", "tests", "docs")


def engine_version() -> str:
    """Return the version that the extra `runtime` asks for.

    It is that of llama-cpp-python, then `.post` and the number of the series of patches.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'"qwen35-engine==([\w.]+)"', text)
    if found is None or not re.fullmatch(re.escape(VERSION) + r"\.post\d+", found[1]):
        fail(f"pyproject.toml: the extra runtime must ask for qwen35-engine=={VERSION}.postN")
    return found[1]


def write_source(folder: Path) -> Path:
    """Write the source into a new folder inside of that one, named as an sdist of it is; return its path."""
    target = folder / f"{PACKAGE}-{engine_version()}"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        unpack(fetch_sdist(), Path(scratch))
        source = Path(scratch, NAME)
        patch(source, series())
        write_package(target)
        _copy_bindings(source, target / PACKAGE)
        for part in LLAMA_CPP:
            _copy(source / "vendor" / "llama.cpp" / part, target / "vendor" / "llama.cpp" / part)
        shutil.copy(source / "LICENSE.md", target / "LICENSE.llama-cpp-python")
        shutil.copy(source / "vendor" / "llama.cpp" / "LICENSE", target / "LICENSE.llama.cpp")
    return target


def write_package(target: Path) -> None:
    """Write what the source has of this project's own, which may be there in an older form."""
    shutil.copytree(HERE / "engine", target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, target / name)
    (target / "pyproject.toml.in").replace(target / "pyproject.toml")
    for name in ("pyproject.toml", f"{PACKAGE}/__init__.py"):
        file = target / name
        text = file.read_text(encoding="utf-8").replace("@VERSION@", engine_version())
        file.write_text(text, encoding="utf-8")


def _copy_bindings(source: Path, package: Path) -> None:
    """Copy the low-level bindings; they import each other by the name of their package, and find libraries by name."""
    for name in BINDINGS:
        text = (source / "llama_cpp" / name).read_text(encoding="utf-8")
        for pattern, replacement in RENAMED.items():
            text = re.sub(pattern, replacement, text, flags=re.M)
        if re.search(r"^\s*(?:import|from) llama_cpp", text, re.M):
            fail(f"{name}: imports llama_cpp in a way that engine_source.py does not know", 1)
        (package / name).write_text(text, encoding="utf-8")
    shutil.copy(source / "llama_cpp" / "qwen35_patches.py", package / "qwen35_patches.py")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_NEEDED), dirs_exist_ok=True)
    else:
        shutil.copy(source, target)
