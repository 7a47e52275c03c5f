"""Check the size of modules and folders.

    python tests/lint/structure.py

No file of Python or C++ over 400 lines, no folder with more than fifteen modules, no folder of a package without
`__init__.py`. Exceptions are in `LONG_FILES`, with a reason; one that is not needed any more is reported, too.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_LINES, MAX_MODULES = 400, 15
PACKAGES = ("qwen35_gguf", "convert", "quant", "runtime", "ggml_ops")
KINDS = (".py", ".pyi", ".h", ".cpp")

LONG_FILES = {
    "examples/make_checkpoint.py": "a script that people copy as one file",
}


def problems(files: Mapping[str, int], exceptions: Mapping[str, str] = LONG_FILES) -> Iterator[str]:
    """Yield one line for each rule that is broken.

    Args:
        files: the number of lines of each file, by its path from the root.
        exceptions: files that may be longer, and why.

    """
    for file, lines in sorted(files.items()):
        if lines > MAX_LINES and file not in exceptions:
            yield f"{file}: {lines} lines, more than {MAX_LINES}; split it by what changes together"
    for file in sorted(exceptions):
        if files.get(file, 0) <= MAX_LINES:
            yield f"{file}: is not over {MAX_LINES} lines; remove it from LONG_FILES"
    modules = [Path(file) for file in files if file.endswith(".py")]
    folders = Counter(path.parent.as_posix() for path in modules if path.name != "__init__.py")
    for folder, number in sorted(folders.items()):
        if number > MAX_MODULES:
            yield f"{folder}: {number} modules, more than {MAX_MODULES}; make a subpackage"
        if folder.split("/")[0] in PACKAGES and f"{folder}/__init__.py" not in files:
            yield f"{folder}: has no __init__.py; add one with a docstring"


def count_lines(files: Sequence[str], root: Path = ROOT) -> dict[str, int]:
    """Count the lines of files of Python and C++."""
    paths = {file: root / file for file in files if file.endswith(KINDS)}
    return {file: path.read_bytes().count(b"\n") for file, path in paths.items() if path.is_file()}


def main() -> int:
    """Print what is wrong; return the exit code."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = list(problems(count_lines(done.stdout.split("\0"))))
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
