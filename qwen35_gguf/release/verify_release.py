"""Make a release again, and compare every byte."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen35_gguf.errors import PackageError
from qwen35_gguf.release import checksums, package
from qwen35_gguf.release.plan import IMATRIX, Options, plan
from qwen35_gguf.release.state import State

RENAMED = {"heads": "mtp_files", "plain": "nomtp_files"}  # options, as version 0.1 records them


def verify(
    folder: Path, against: str, *, revision: str = "", jobs: int = 0, say: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Make a release again beside its folder and compare; return what differs, a line each.

    Args:
        folder: the release.
        against: the checkpoint.
        revision: on the Hub.
        jobs: threads.
        say: is told what is done.

    Raises:
        PackageError: the folder is no release, was made of GGUF files, or of another checkpoint.
        Qwen35Error: a file cannot be read or made.

    """
    said = read_record(folder)
    options = replace(_options(folder, said), model=against, revision=revision)
    verdicts = checksums.verify(folder, jobs=jobs)
    problems = [f"{verdict.name}: {verdict.problem}" for verdict in verdicts if verdict.problem]
    listed = checksums.read_list(folder)
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent, prefix=".qwen35-verify-") as scratch:
        again = Path(scratch)
        planned = plan(options, again)
        if planned.identity != said.get("checkpoint_headers_sha256"):
            raise PackageError(f"{against}: is another checkpoint than the one that the release was made of")
        state = State({})
        package.convert(planned, again, state, max_shard_size=options.max_shard_size, jobs=jobs, say=say)
        if state.weights != said.get("checkpoint_sha256"):
            problems.append(f"{package.RECIPE}: names other weights than those of {against}")
        for name, digest in sorted(state.files.items()):
            # what the list says of a file was compared with the file above
            if not (folder / name).is_file():
                problems.append(f"{name}: is missing")
            elif listed.get(name) != digest:
                problems.append(f"{name}: is not what this checkpoint gives")
            else:
                say(f"{name}: the same")
        for path in sorted(folder.glob("*.gguf")):
            if path.name not in state.files and path.name != IMATRIX:
                problems.append(f"{path.name}: is not part of the release")
    return list(dict.fromkeys(problems))


def read_record(folder: Path) -> dict[str, Any]:
    """Read how a release was made.

    Raises:
        PackageError: the folder does not say it.

    """
    try:
        said = json.loads((folder / package.RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = None
    if not isinstance(said, dict) or not ("options" in said or "files" in said):
        raise PackageError(f"{folder}: has no {package.RECIPE} that says how it was made; name the folder of a release")
    if "options" not in said:
        raise PackageError(
            f"{folder}: was made of GGUF files, not of a checkpoint; `qwen35 checksum` tells whether it is whole"
        )
    return said


def _options(folder: Path, said: dict[str, Any]) -> Options:
    try:
        stored = {RENAMED.get(name, name): value for name, value in said["options"].items()}
        stored |= {"quants": tuple(stored["quants"]), "mmproj_types": tuple(stored["mmproj_types"])}
        options = Options(**stored)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise PackageError(f"{folder / package.RECIPE}: is damaged, or of another version; download it again") from None
    return replace(options, imatrix=str(folder / IMATRIX)) if options.imatrix else options
