"""Where the checkpoint is: a local directory, or a Hugging Face Hub id that is downloaded into the usual cache.

Downloads resume where they stopped and are shared with every other tool that uses huggingface_hub.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qwen35_gguf.convert.model_name import absolute, repository_of, snapshot_in
from qwen35_gguf.convert.source_tensors.parts import ALL, Parts
from qwen35_gguf.convert.source_tensors.weight_files import INDEX, SINGLE, index_entries, wanted_shards
from qwen35_gguf.errors import CheckpointError, HubError
from qwen35_gguf.hub.client import download
from qwen35_gguf.hub.names import HUB_ID
from qwen35_gguf.json_file import read_json

SIDE_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "README.md", "additional_chat_templates/*")
# Without an index. Other safetensors beside what transformers reads are second copies (consolidated) or adapters.
ANY_WEIGHTS = "*.safetensors"


class Location(NamedTuple):
    """Where a checkpoint is: its directory, and if it came from the Hub its repository and commit."""

    directory: Path
    repo: str | None = None
    commit: str | None = None


def resolve(model: str, revision: str | None = None, parts: Parts = ALL) -> Location:
    """Find the directory of a checkpoint, downloading it if `model` is a Hub id.

    Args:
        model: a directory, which wins, or `organisation/name` on the Hub.
        revision: branch, tag or commit on the Hub.
        parts: what is wanted of it; shards that hold only other parts are not downloaded.

    Raises:
        CheckpointError: there is no such directory or repository, or the Hub does not hand it out.

    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise CheckpointError(f"{model}: is a local directory, so --revision {revision} cannot apply; leave it out")
        location = _local(directory)
        _check_kind(location.directory, model)
        return location
    if directory.exists():
        raise CheckpointError(f"{model}: is a file; give the directory that holds config.json")
    model = model.rstrip("/")
    if not HUB_ID.fullmatch(model):
        raise CheckpointError(f"{model}: no such directory, and not a Hub id such as Qwen/Qwen3.5-9B")
    snapshot = _download(model, revision, [*SIDE_FILES, SINGLE])
    _check_kind(snapshot, model)
    if not (snapshot / SINGLE).is_file():
        _download(model, snapshot.name, _weights(snapshot, parts))
    return Location(snapshot, model, snapshot.name)


def resolve_files(name: str, patterns: Sequence[str], revision: str | None = None) -> Location:
    """Find a directory of anything, or download the files of a Hub id that match the patterns.

    Raises:
        CheckpointError: there is no such directory or repository, or the Hub does not hand it out.

    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        return _local(directory)
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such directory, and not a Hub id such as Qwen/Qwen3.5-9B")
    snapshot = _download(name, revision, patterns)
    return Location(snapshot, name, snapshot.name)


def _check_kind(directory: Path, model: str) -> None:
    """Tell what a directory without config.json is. Raises CheckpointError."""
    if (directory / "config.json").is_file():
        return
    inside = sorted(path.parent.name for path in directory.glob("*/config.json"))
    if (directory / "adapter_config.json").is_file():
        problem = "is an adapter, not a checkpoint; give its base model, and the adapter with --adapter"
    elif any(directory.glob("*.gguf")):
        problem = "has GGUF files, not a checkpoint; run them as they are, or give the checkpoint they were made of"
    elif inside:
        problem = f"has no config.json, but its folder {inside[-1]} has; give that one"
    else:
        problem = "has no config.json; give the directory or the Hub id of a Hugging Face checkpoint"
    raise CheckpointError(f"{model}: {problem}")


def _local(directory: Path) -> Location:
    """Recognize folders of the Hub's cache, whose names are those of repositories and commits."""
    whole = absolute(directory)
    if not (directory / "config.json").is_file() and (snapshot := snapshot_in(whole)):
        directory = whole = snapshot
    # The name of a link was chosen, unless it is that of a commit, too.
    found = repository_of(whole) or (repository_of(whole.resolve()) if whole.name == whole.resolve().name else None)
    return Location(directory, found.id, found.commit) if found else Location(directory)


def _weights(snapshot: Path, parts: Parts) -> list[str]:
    """Return patterns for the weights that are wanted: the files that the index names, whatever they are called."""
    if not (snapshot / INDEX).is_file():
        return [ANY_WEIGHTS]
    wanted = parts.of_config(read_json(snapshot / "config.json").values)
    return [glob.escape(name) for name in wanted_shards(index_entries(snapshot), wanted)]


def _download(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Download into the cache, `.../snapshots/COMMIT`, and return that directory."""
    try:
        return download(repo, patterns, revision)
    except HubError as error:
        raise CheckpointError(str(error)) from None
