"""Find the subcommands: each module of a group's folder is one, named as the verb that it implements.

A new command is one new file; nothing else lists it. Modules are not imported to list them, so that `qwen35 --help`
answers without loading numpy or llama.cpp: the help line is the first line of the module's docstring, read as text.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import NamedTuple

import click

GROUPS = ("convert", "run", "quality", "files", "release")  # in the order of `qwen35 --help`
RENAMED = {"worker": "rpc-server"}  # old verbs, which no help shows and which go with version 0.3
_FOLDER = Path(__file__).parent


class Subcommand(NamedTuple):
    """A verb, as typed, the module that implements it, and its line in `qwen35 --help`."""

    verb: str
    module: str
    help: str


class Group(NamedTuple):
    """A folder of subcommands, with the heading that they stand under."""

    title: str
    subcommands: tuple[Subcommand, ...]


def groups() -> tuple[Group, ...]:
    """Return every subcommand, by group; the verbs of a group in alphabetical order."""
    return tuple(_group(name) for name in GROUPS)


def load(verb: str) -> click.Command | None:
    """Import a subcommand by its verb, or by the one that it had before; None if there is none of that name."""
    name = RENAMED.get(verb, verb).replace("-", "_")
    for group in GROUPS:
        if name.isidentifier() and name != "__init__" and (_FOLDER / group / f"{name}.py").is_file():
            command: click.Command = importlib.import_module(f"{__package__}.{group}.{name}").command
            return command
    return None


def _group(name: str) -> Group:
    folder = _FOLDER / name
    paths = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
    subcommands = tuple(
        Subcommand(path.stem.replace("_", "-"), f"{__package__}.{name}.{path.stem}", _first_line(path))
        for path in paths
    )
    return Group(_first_line(folder / "__init__.py").rstrip("."), subcommands)


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]
