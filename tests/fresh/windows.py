"""Have the demo answer with the engine's wheel for Windows, under wine, as it does with the wheel for Linux.

python tests/fresh/windows.py [--dist dist] [--work .cache/fresh]

A Windows without Python, as wine is, runs no wheel: `ask_engine.c` loads the engine's libraries and continues a text.
Zig compiles it for both systems. The demo is converted by the package of this Python. wine is a package of Debian,
`make wheels` and `make wheels SYSTEM=windows` write what is tried here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from processors import ROOT, call, convert, step

sys.path.insert(0, str(ROOT / "patches"))
from zig import LINUX, WINDOWS, Target, environment

PROMPT, TOKENS = "Once upon a time there was a", "16"
LIBRARIES = ("qwen35-llama", "qwen35-ggml", "qwen35-ggml-base")


def main() -> None:
    """Compile, convert, ask both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="what `make wheels` wrote")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "fresh", help="for what is unpacked")
    options = parser.parse_args()
    wine = shutil.which("wine64") or shutil.which("wine") or "/usr/lib/wine/wine64"
    if not Path(wine).exists():
        sys.exit("error: wine is not installed; install it: apt-get install wine64")
    work = options.work.resolve()
    headers = unpack_headers(options.dist, work / "engine-headers")
    with step("convert"):
        model = convert([sys.executable, "-m", "qwen35_gguf.cli"], work / "native")
    answers = {}
    for system, tag in ((LINUX, "manylinux*x86_64"), (WINDOWS, "win_amd64")):
        libraries = unpack_libraries(options.dist, tag, work / f"engine-{system}")
        program = compile_program(Target("x86_64", system=system), headers, libraries)
        command = [str(program), str(libraries), str(model), PROMPT, TOKENS]
        with step(f"{system}: ask"):
            os.environ |= {"WINEDEBUG": "-all", "LD_LIBRARY_PATH": str(libraries)}
            answers[system] = call([wine, *command] if system == WINDOWS else command).replace("\r", "")
    if answers[LINUX] != answers[WINDOWS] or len(answers[LINUX].split()) < 5:
        sys.exit(f"error: {answers[LINUX]!r} on Linux, {answers[WINDOWS]!r} on Windows")
    print(answers[WINDOWS], end="")


def one_file(dist: Path, pattern: str) -> Path:
    """Return the newest such file."""
    found = sorted(dist.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit(f"error: {dist}: no {pattern}; make it: make wheels, make wheels SYSTEM=windows")
    return found[-1]


def unpack_headers(dist: Path, folder: Path) -> list[Path]:
    """Unpack the headers of the engine's source; return their folders."""
    parts = ("include", "ggml/include")
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(one_file(dist, "qwen35_engine-*.tar.gz")) as source:
        for member in source:
            _, _, name = member.name.partition("/vendor/llama.cpp/")
            content = source.extractfile(member) if name.endswith(".h") and name.startswith(parts) else None
            if content is not None:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    return [folder / part for part in parts]


def unpack_libraries(dist: Path, tag: str, folder: Path) -> Path:
    """Unpack the engine's libraries; return their folder."""
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(one_file(dist, f"qwen35_engine-*{tag}.whl")) as wheel:
        wheel.extractall(folder)
    return folder / "qwen35_engine" / "lib"


def compile_program(target: Target, headers: list[Path], libraries: Path) -> Path:
    """Compile and link the program beside the libraries."""
    program = libraries / ("ask_engine.exe" if target.system == WINDOWS else "ask_engine")
    for name in LIBRARIES:  # MinGW's have a prefix, without which the linker looks for them
        if target.system == WINDOWS and (prefixed := libraries / f"lib{name}.dll").exists():
            shutil.copy(prefixed, libraries / f"{name}.dll")
    compiler = environment(target)["CC"]
    command = [compiler, "-O2", *(f"-I{folder}" for folder in headers), str(Path(__file__).with_name("ask_engine.c"))]
    command += [f"-L{libraries}", *(f"-l{name}" for name in LIBRARIES), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


if __name__ == "__main__":
    main()
