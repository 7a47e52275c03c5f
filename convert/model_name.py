"""What a model is called: by its repository, else by its folder, and never by the hash of a commit.

The Hub's cache keeps a download in `models--OWNER--NAME/snapshots/COMMIT`; ModelScope's spells a dot `___`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from gguf import Metadata
from gguf.utility import naming_convention, size_label

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}|(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{12}")
CACHED = re.compile(r"models--([\w.-]+?)(?:--([\w.-]+))?")
SNAPSHOTS = "snapshots"
# Of folders between a model's own one and the weights; they name no model.
INNER = (SNAPSHOTS, "refs", "blobs")
SIZE = re.compile(r"(?<![A-Z0-9.])(\d+(?:\.\d+)?)([KMBT])(?![A-Z0-9.])", re.IGNORECASE)
LONGEST_STEM = 150  # bytes; a file system's limit is 255, and prefix, type and shard number are added
FALLBACK = "model"

Parameters = tuple[int, int, int, int]


class Repository(NamedTuple):
    """A repository of the Hub, and one of its commits."""

    id: str
    commit: str


def repository_of(directory: PurePath) -> Repository | None:
    """Tell of which repository a folder of the Hub's cache is a snapshot; None for any other folder."""
    if len(directory.parts) < 3 or directory.parent.name != SNAPSHOTS:
        return None
    found = CACHED.fullmatch(directory.parent.parent.name)
    if not found:
        return None
    return Repository("/".join(part for part in found.groups() if part), directory.name)


def snapshot_in(directory: Path) -> Path | None:
    """Return the snapshot that a repository's folder in the Hub's cache, or its folder of snapshots, refers to."""
    whole = directory.parent if directory.name == SNAPSHOTS else directory
    if not CACHED.fullmatch(whole.name):
        return None
    try:
        commits = [(whole / "refs" / "main").read_text(encoding="utf-8").strip()]
    except OSError:
        commits = sorted(path.name for path in (whole / SNAPSHOTS).glob("*"))
    found = whole / SNAPSHOTS / commits[0] if len(commits) == 1 else None
    return found if found and found.is_dir() else None


def absolute(directory: Path) -> Path:
    """Return the path without `.` and `..`. Symbolic links are kept: their name was chosen, their target's was not."""
    return Path(os.path.abspath(directory))  # noqa: PTH100 - Path.absolute keeps `..`


def named_directory(directory: PurePath) -> PurePath:
    """Return a path whose last part is what the model in this folder is best called."""
    repository = repository_of(directory)
    if repository:
        return directory.with_name(repository.id.rpartition("/")[2])
    for path in (directory, *directory.parents):
        if re.search(r"\w", path.name) and path.name not in INNER and not _is_hash(path.name):
            cached = CACHED.fullmatch(path.name)
            name = (cached[2] or cached[1]) if cached else path.name
            return path.with_name(name.replace("___", "."))
    return PurePath(FALLBACK)


def usable_hint(hint: Any) -> str | None:
    """Return `_name_or_path` of config.json if it is a model's name; None if it is a path, or the hash of a commit."""
    if not isinstance(hint, str) or "\\" in hint or hint.startswith((".", "/", "~")) or hint.count("/") > 1:
        return None
    name = hint.rpartition("/")[2]
    return None if not name or _is_hash(name) or name in INNER else hint


def file_stem(card: Metadata, parameters: Parameters, *, with_size: bool) -> str:
    """Return BaseName-SizeLabel-FineTune-Version as a name for files."""
    size = card.size_label if with_size else None
    # Without a base name the name is written in full, with a size if it has one.
    if card.basename is None and any(_about(match, parameters[0]) for match in SIZE.finditer(card.name or "")):
        size = None
    stem = naming_convention(card.name, card.basename, card.finetune, card.version, size, None)
    # What file systems refuse is replaced; the end is at a whole character.
    stem = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*-]+', "-", str(stem)).strip("-. ")
    return stem.encode()[:LONGEST_STEM].decode(errors="ignore").rstrip("-. ") or FALLBACK


def without_repeats(found: Metadata, card: Mapping[str, Any]) -> None:
    """Drop what was derived from a name that gave no base name: the name is used in full, which has it already.

    Args:
        found: is changed.
        card: the model card's front matter, whose entries are kept.

    """
    if found.basename is None:
        found.finetune = card.get("finetune") or card.get("model_finetune")
        found.version = card.get("version") or card.get("model_version")


def computed_size(parameters: Parameters) -> str | None:
    """Return the size label of a model with these numbers of weights."""
    return str(size_label(*parameters)) if parameters[0] > 0 else None


def _is_hash(name: str) -> bool:
    """Tell a commit's hash, in full or as git shortens it, from a name."""
    return COMMIT.fullmatch(name) is not None


def _about(match: re.Match[str], parameters: int) -> bool:
    """Tell whether a size in a name is about that of the model."""
    size = float(match[1]) * 1000 ** " KMBT".index(match[2].upper())
    return bool(0.5 < size / max(1, parameters) < 2)
