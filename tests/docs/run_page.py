"""Run the code blocks of a page from top to bottom, as a reader would.

    python tests/docs/run_page.py PAGE [FOLDER]

Blocks of `python` share their names; blocks of `sh` run in bash. Both run in FOLDER, by default a temporary one, in
which `examples` leads to that of this repository and `qwen35` is this version. The page stops at the first block that
fails, with exit code 1.

A block runs unless the line before it is `*Not run by the tests: REASON.*`, which readers see as well. Output that a
page shows is a block of `text`; blocks of other languages that could be commands are refused.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RUN = ("python", "sh")
SHOWN = ("text", "json", "yaml", "mermaid")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)$")
NOT_RUN = re.compile(r"\*Not run by the tests: (?P<reason>.+)\.\*")


class Block(NamedTuple):
    """A block of code: its language, its text, the line that its text begins on, and why it is not run, if so."""

    language: str
    text: str
    line: int
    not_run: str


def blocks(page: str) -> Iterator[Block]:
    """Yield the blocks of a page that are run, and those that say why not.

    Raises:
        ValueError: a fence is indented or not closed, or has another language.

    """
    before, lines = "", list(enumerate(page.splitlines(), 1))
    while lines:
        number, line = lines.pop(0)
        fence = FENCE.fullmatch(line)
        if fence is None:
            before = line if line.strip() else before
            continue
        language = fence["language"].strip()
        if fence["indent"] or language not in RUN + SHOWN:
            raise ValueError(f"line {number}: a block of {language or 'no language'!r}; use one of {RUN + SHOWN}")
        text: list[str] = []
        while lines and lines[0][1] != "```":
            text.append(lines.pop(0)[1])
        if not lines:
            raise ValueError(f"line {number}: the block is not closed")
        lines.pop(0)
        if language in RUN:
            reason = NOT_RUN.fullmatch(before.strip())
            yield Block(language, "\n".join(text) + "\n", number + 1, reason["reason"] if reason else "")
        before = ""


def run_page(page: Path, folder: Path) -> int:
    """Run the blocks of a page; return the exit code."""
    prepare(folder)
    os.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        place = f"{page.name}:{block.line}"
        if block.not_run:
            print(f"--- {place}: not run: {block.not_run}", flush=True)
            continue
        print(f"--- {place}", flush=True)
        if not (run_python(block, page, names) if block.language == "python" else run_shell(block)):
            print(f"{place}: failed", file=sys.stderr)
            return 1
    return 0


def prepare(folder: Path) -> None:
    """Link the examples, and put `qwen35` and `python` first on the path."""
    programs = folder / ".bin"
    programs.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "qwen35").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qwen35_gguf.cli "$@"\n', encoding="utf-8")
    (programs / "qwen35").chmod(0o755)
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    sys.path.insert(0, str(ROOT))


def run_python(block: Block, page: Path, names: dict[str, Any]) -> bool:
    """Execute a block; line numbers of a traceback are those of the page."""
    try:
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
        exec(code, names)  # a document of this repository
    except (Exception, SystemExit):
        traceback.print_exc()
        return False
    finally:
        sys.stdout.flush()
    return True


def run_shell(block: Block) -> bool:
    """Run a block in bash; the first command that fails ends it."""
    shell = shutil.which("bash") or "bash"
    return subprocess.run([shell, "-euo", "pipefail", "-c", block.text], check=False).returncode == 0


def main() -> int:
    """Run the page that is named."""
    page = Path(sys.argv[1]).resolve()
    if len(sys.argv) > 2:
        return run_page(page, Path(sys.argv[2]).resolve())
    with tempfile.TemporaryDirectory(prefix="qwen35-page-") as folder:
        return run_page(page, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
