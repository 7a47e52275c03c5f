"""The GGUF models that this machine has: in the cache of the Hub, and in a folder of converted ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from qwen35_gguf.architecture import DENSE, MOE
from qwen35_gguf.atomic_file import disk_errors
from qwen35_gguf.errors import GgufError
from qwen35_gguf.gguf_file.reader import read_header
from qwen35_gguf.hub.client import check_hub_variables
from qwen35_gguf.hub.model_files import model_files
from qwen35_gguf.hub.names import SUFFIX

Kind = Literal["model", "vision encoder", "MTP head", "damaged"]
KINDS: dict[str, Kind] = {DENSE: "model", MOE: "model", "clip": "vision encoder"}


@dataclass(frozen=True)
class StoredModel:
    """A text model with all its shards, a vision encoder, or an MTP head in a file of its own.

    Attributes:
        name: by which commands take it: `USER/NAME:QUANT`, or a path.
        kind: what it is.
        files: its paths; of the cache, in all revisions.
        size: bytes on the disk.
        last_use: seconds since 1970.
        repo: on the Hub; None for files in a folder.

    """

    name: str
    kind: Kind
    files: tuple[Path, ...]
    size: int
    last_use: float
    repo: str | None = None


def in_cache() -> list[StoredModel]:
    """List the models of this family in the cache of the Hub, by name; errors as of `check_hub_variables`."""
    check_hub_variables()
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return []
    models: list[StoredModel] = []
    for repo in found.repos:
        paths: dict[str, list[Path]] = {}
        for revision in sorted(repo.revisions, key=lambda one: one.last_modified, reverse=True):
            for file in revision.files:
                name = file.file_path.relative_to(revision.snapshot_path).as_posix()
                if repo.repo_type == "model" and name.lower().endswith(SUFFIX) and file.file_path.exists():
                    paths.setdefault(name, []).append(file.file_path)
        models += _models(paths, repo.repo_id)
    return sorted(models, key=lambda one: one.name.lower())


def in_folder(folder: Path) -> list[StoredModel]:
    """List the models of this family in a folder and the folders in it, by name."""
    paths = {path.relative_to(folder).as_posix(): [path] for path in [*folder.glob("*"), *folder.glob("*/*")]}
    paths = {name: found for name, found in paths.items() if name.lower().endswith(SUFFIX) and found[0].is_file()}
    return sorted(_models(paths, None), key=lambda one: one.name.lower())


def _models(paths: dict[str, list[Path]], repo: str | None) -> Iterator[StoredModel]:
    """Yield the models of a folder; of a path all copies are its files, the newest first."""
    found = model_files({name: copies[0].stat().st_size for name, copies in paths.items()})
    for quant in found.quants:
        yield from _model(quant.label, [paths[name] for name in quant.files], repo)
    for name in found.encoders:
        yield from _model(name, [paths[name]], repo)
    for name in found.heads:
        for head in _model(name, [paths[name]], repo):
            yield replace(head, kind="MTP head") if head.kind == "model" else head


def _model(label: str, parts: Sequence[Sequence[Path]], repo: str | None) -> Iterator[StoredModel]:
    """Yield a model, unless it is one of another family."""
    first = parts[0][0]
    files = [path for copies in parts for path in copies]
    stored = {path.resolve(): path.stat() for path in files}
    kind = _kind(first)
    if kind is None:
        return
    yield StoredModel(
        f"{repo}:{label}" if repo else str(first),
        kind,
        tuple(files),
        sum(one.st_size for one in stored.values()),
        max(one.st_atime for one in stored.values()),
        repo,
    )


def _kind(file: Path) -> Kind | None:
    """Read what a file is; None for other families. This does not count as a use: the time of the last access stays."""
    before = file.stat()
    try:
        return KINDS.get(read_header(file).architecture)
    except GgufError:
        return "damaged"
    finally:
        with suppress(OSError):
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove(models: Sequence[StoredModel]) -> int:
    """Delete models, and return their bytes.

    A repository in the cache goes as a whole with its last model.

    Raises:
        OutputError: a file cannot be deleted.

    """
    for repo in dict.fromkeys(one.repo for one in models):
        files = {file for one in models if one.repo == repo for file in one.files}
        with disk_errors(min(files)):
            if repo is not None:
                _remove_cached(repo, files)
            else:
                for file in files:
                    file.unlink()
    return sum(one.size for one in models)


def _remove_cached(repo: str, files: set[Path]) -> None:
    """Delete files of a repository in the cache by what huggingface_hub has for it."""
    from huggingface_hub import constants, scan_cache_dir

    info: Any = scan_cache_dir(constants.HF_HUB_CACHE)  # whose methods differ between versions
    found = next(one for one in info.repos if one.repo_type == "model" and one.repo_id == repo)
    every = [file for revision in found.revisions for file in revision.files]
    left = [file for file in every if file.file_path not in files]
    if not any(file.file_name.lower().endswith(SUFFIX) for file in left):
        # Of that repository alone: another one may have a commit of the same hash.
        only = replace(info, repos=frozenset({found}))
        strategy = only.delete_revisions(*(revision.commit_hash for revision in found.revisions))
    elif hasattr(info, "delete_files"):
        strategy = info.delete_files(*(file for file in every if file.file_path in files))
    else:
        from huggingface_hub import DeleteCacheStrategy

        kept = {file.blob_path for file in left}
        blobs = {file.blob_path: file.size_on_disk for file in every if file.file_path in files}
        freed = {path: size for path, size in blobs.items() if path not in kept}
        # What it calls snapshots may be single files of them: each path is deleted as what it is.
        none: frozenset[Path] = frozenset()
        strategy = DeleteCacheStrategy(sum(freed.values()), frozenset(freed), none, none, frozenset(files))
    strategy.execute()
