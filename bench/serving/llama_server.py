"""Build llama-server from the same stock source as the other stock tools; once, kept beside them.

.venv/bin/python bench/serving/llama_server.py     prints its path
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from stock import CMAKE_OPTIONS, ROOT, VERSION, cache_folder, fetch_sdist, run, unpack

TARGET = "llama-server"
OPTIONS = CMAKE_OPTIONS | {"LLAMA_BUILD_SERVER": "ON"}


def llama_server() -> Path:
    """Return the program; the first call fetches and builds it, which takes minutes."""
    cache = cache_folder()
    key = hashlib.sha256(repr(sorted(OPTIONS.items())).encode()).hexdigest()[:8]
    target = cache / f"{TARGET}-{VERSION}-{key}"
    if not target.is_file():
        print(f"building llama.cpp's server in {target}; this takes minutes, once", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"{TARGET}-") as folder:
            _build(Path(folder)).rename(target)
    return target


def _build(scratch: Path) -> Path:
    unpack(fetch_sdist(), scratch, (f"{ROOT}/",))
    folder = scratch / "build"
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    run(["cmake", "-S", str(scratch / ROOT), "-B", str(folder), *options], "cmake cannot configure llama.cpp")
    jobs = str(os.cpu_count() or 1)
    run(["cmake", "--build", str(folder), "-j", jobs, "--target", TARGET], "llama-server cannot be built")
    return folder / "bin" / TARGET


if __name__ == "__main__":
    print(llama_server())
