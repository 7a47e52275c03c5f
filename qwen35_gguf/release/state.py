"""How far a release is: what is done, with checksums, in a hidden file of its folder.

So an interrupted run goes on, and a folder that has other files, or was begun with other options, is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwen35_gguf.errors import PackageError
from qwen35_gguf.gguf_file.atomic_file import disk_errors
from qwen35_gguf.gguf_file.shards import SHARD_NAME
from qwen35_gguf.release import checksums

STATE = ".qwen35-package.json"


@dataclass
class State:
    """What is done.

    Attributes:
        options: what the release is made of and how, as JSON has it.
        weights: the checksum of the checkpoint's weights; empty until they were read.
        files: checksums of finished files, by name.
        figures: of divergence, by the name of the whole file.
        linted: finished files in which nothing was found.

    """

    options: dict[str, Any]
    weights: str = ""
    files: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    linted: list[str] = field(default_factory=list)


def begin(folder: Path, options: dict[str, Any], names: Collection[str], others: Collection[str]) -> State:
    """Read what an interrupted run left, and drop what is no longer as it was.

    Args:
        folder: of the release; it need not exist.
        options: what the release is made of and how.
        names: of the GGUF files that are to be there, unsharded.
        others: names of other files that may be there.

    Raises:
        PackageError: the folder has foreign files, or was begun with other options.
        ChecksumError: a file cannot be read.

    """
    said = json.loads(json.dumps(options))
    state = State(said)
    where = folder / STATE
    if where.exists():
        try:
            state = State(**json.loads(where.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise PackageError(f"{where}: is damaged; remove it, and the files that are to be made again") from None
        if state.options != said:
            raise PackageError(
                f"{folder}: was begun with other options or of another checkpoint; choose another folder"
            )
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        hidden = path.name.startswith(".")  # what downloads and uploads note, among others
        if not (hidden or path.name in others or whole_name(path) in names or path.name.endswith(".part")):
            raise PackageError(f"{folder}: has {path.name}, which does not belong there; choose an empty folder")
    for name, digest in list(state.files.items()):
        path = folder / name
        if not path.is_file() or checksums.digest(path) != digest:
            del state.files[name]
            state.linted = [one for one in state.linted if one != whole_name(path)]
    return state


def save(folder: Path, state: State) -> None:
    """Keep how far it is."""
    write_text(folder / STATE, json.dumps(asdict(state), indent=1) + "\n")


def whole_name(path: Path) -> str:
    """Return the name of the file that a shard is of; of another file, its own."""
    shard = SHARD_NAME.fullmatch(path.name)
    return f"{shard['prefix']}.gguf" if shard else path.name


def parts_of(folder: Path, name: str) -> list[Path]:
    """List the shards of a file that was cut, the first one first, or the file itself."""
    return sorted(_shards(folder, name)) or [folder / name]


def _shards(folder: Path, name: str) -> Iterator[Path]:
    for path in folder.glob("*-of-*.gguf"):
        if whole_name(path) == name:
            yield path


def is_done(folder: Path, name: str, state: State) -> bool:
    """Whether all parts of a file are there as they were."""
    parts = parts_of(folder, name)
    shard = SHARD_NAME.fullmatch(parts[0].name)
    whole = shard is None or int(shard["count"]) == len(parts)
    return whole and all(path.name in state.files for path in parts)


def to_be_made(folder: Path, names: Sequence[str], state: State, say: Callable[[str], None]) -> set[str]:
    """Return which files are not done, and remove what is left of them."""
    missing = {name for name in names if not is_done(folder, name, state)}
    if len(missing) < len(names):
        say(f"{len(names) - len(missing)} of {len(names)} files are there already")
    for name in missing:
        for stale in parts_of(folder, name):
            stale.unlink(missing_ok=True)
    return missing


def write_text(path: Path, content: str) -> None:
    """Write a text that appears whole.

    Raises:
        OutputError: it cannot be written.

    """
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        part.write_text(content, encoding="utf-8")
        part.replace(path)
