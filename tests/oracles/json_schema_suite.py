"""The JSON Schema Test Suite, which the source distribution of jsonschema contains: schemas, and what they accept."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qwen35_gguf.cache_dir import cache_dir

VERSION = "4.26.0"
FOLDER = "json/tests/draft2020-12/"


@dataclass(frozen=True)
class Group:
    """A schema, and values with whether it accepts them."""

    name: str
    schema: Any
    values: tuple[tuple[Any, bool], ...]


def groups() -> Iterator[Group]:
    """Read the groups of the required tests of draft 2020-12; skip the test where the index cannot be reached."""
    with tarfile.open(fetch()) as archive:
        for member in archive.getmembers():
            path = member.name.split("/", 1)[-1]
            if path.startswith(FOLDER) and path.count("/") == FOLDER.count("/") and path.endswith(".json"):
                file: Any = archive.extractfile(member)
                for group in json.load(file):
                    values = tuple((one["data"], one["valid"]) for one in group["tests"])
                    yield Group(f"{Path(path).stem}: {group['description']}", group["schema"], values)


def fetch() -> Path:
    """Return the archive, downloaded once."""
    kept = cache_dir() / f"jsonschema-{VERSION}.tar.gz"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder]
            command = [sys.executable, "-m", "pip", "download", *options, f"jsonschema=={VERSION}"]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip(f"the source distribution of jsonschema {VERSION} cannot be downloaded")
            next(Path(folder).iterdir()).rename(kept)
    return kept
