"""The documents: links, paths and test paths exist, command lines parse, Python imports what there is."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from oracles.paths import ROOT
from qwen35_gguf.commands import discover

pytestmark = pytest.mark.unit

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/*/README.md", "patches/*.md")
    for path in ROOT.glob(pattern)
    if path.is_file()
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# A path from the root: one of its folders or a file in capitals, then no placeholder (NAME, x.py, {L}).
PATH = re.compile(r"(?:\.ci|bench|convert|docs|examples|ggml_ops|patches|quant|qwen35_gguf|runtime|tests)/[\w./-]*")
PLACEHOLDERS = {"bench/x.py"}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z.-]*):", MAKEFILE, re.MULTILINE))
VARIABLES = {*re.findall(r"^([A-Z_]+) *[?:]?=", MAKEFILE, re.MULTILINE), "CMAKE_ARGS"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown viewer makes of the headings."""
    titles = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def blocks(page: Path, language: str) -> Iterator[str]:
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        if found[1] == language:
            yield found[2]


def command_lines(page: Path) -> Iterator[str]:
    """Command lines of the page: in blocks of shell, and in code spans."""
    for block in blocks(page, "sh"):
        yield from (line for line in block.replace("\\\n", " ").splitlines() if line.strip())
    for span in SPAN.findall(prose(page)):
        if re.match(r"(qwen35|make|\.venv/bin/python|bench/\w+\.py) ", span):
            yield span


@every_page
def test_relative_links_exist(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


@every_page
def test_paths_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":  # earlier versions had other paths
        return
    found = {path.rstrip(".") for span in SPAN.findall(prose(page)) for path in PATH.findall(f" {span}")}
    spans = {path for path in found if path not in PLACEHOLDERS and "..." not in path}
    missing = sorted(path for path in spans if not (ROOT / path).exists())
    assert missing == []


@every_page
def test_command_lines_parse(page: Path) -> None:
    problems = [f"{line}: {problem}" for line in command_lines(page) for problem in mistakes(line)]
    assert problems == []


@every_page
def test_python_blocks_import_what_there_is(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("qwen35_gguf"):
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}")


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 200
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def mistakes(line: str) -> Iterator[str]:
    """Yield what is wrong with a command line."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        yield from () if words[0].partition("=")[0] in VARIABLES | {"OPENBLAS_NUM_THREADS"} else ("no such variable",)
        words = words[1:]
    if not words:
        return
    program, *arguments = words
    if program == "qwen35":
        yield from mistakes_of_qwen35(arguments)
    elif program == "make":
        for word in arguments:
            name, equals, _ = word.partition("=")
            if name not in (VARIABLES if equals else TARGETS):
                yield f"make has no {name}"
    elif (script := program if program.startswith("bench/") else arguments[0] if arguments else "").startswith(
        "bench/"
    ):
        if script in PLACEHOLDERS:
            return
        if not (ROOT / script).is_file():
            yield f"there is no {script}"
            return
        source = (ROOT / script).read_text(encoding="utf-8")
        yield from (
            f"{script} has no {word}" for word in arguments if word.startswith("--") and f'"{word}"' not in source
        )


def mistakes_of_qwen35(arguments: list[str]) -> Iterator[str]:
    if arguments[0] in ("--help", "--version") or not arguments[0].islower():
        return
    command = discover.load(arguments[0])
    if command is None:
        yield f"qwen35 has no {arguments[0]}"
        return
    parser = command.make_parser(click.Context(command))
    try:
        parser.parse_args([word for word in arguments[1:] if word != "..."])
    except click.BadOptionUsage:
        pass  # `--option` alone, as text names it
    except click.UsageError as error:
        yield error.format_message()


def test_mistakes_are_found() -> None:
    assert list(mistakes("qwen35 convert MODEL --no-such-option")) != []
    assert list(mistakes("qwen35 nothing")) != []
    assert list(mistakes("make nothing")) != []
    assert list(mistakes("make convert NOTHING=1")) != []
    assert list(mistakes("bench/runtime.py --nothing")) != []
    assert list(mistakes("bench/nothing.py")) != []
    assert list(mistakes("CMAKE_ARGS=-DGGML_VULKAN=ON make runtime  # a comment")) == []
    assert list(mistakes('qwen35 run FILE "Hello" --image F')) == []
