"""Inputs that are kept: those that once failed, and a few that reach many lines, as one archive for each target."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from fuzz.target import Target

FOLDER = Path(__file__).with_name("corpus")
DATE = (2026, 1, 1, 0, 0, 0)  # of every file in an archive, so that equal inputs are equal bytes


def kept(target: Target) -> dict[str, bytes]:
    """Return the kept inputs of a target by name."""
    path = FOLDER / f"{target.name}.zip"
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def keep(target: Target, inputs: dict[str, bytes]) -> None:
    """Write the kept inputs of a target."""
    FOLDER.mkdir(exist_ok=True)
    with zipfile.ZipFile(FOLDER / f"{target.name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(inputs.items()):
            archive.writestr(zipfile.ZipInfo(name, DATE), data, zipfile.ZIP_DEFLATED)


def inputs(target: Target) -> Iterable[bytes]:
    """Yield the seeds of a target, and its kept inputs."""
    yield from target.seeds()
    yield from kept(target).values()
