"""Ask the Hub: what a repository has, and its files into the cache; with one line for whatever goes wrong.

All of it is done by huggingface_hub, which is imported when it is used: what is local does not need it. Downloads
resume where they stopped, and are shared with every other tool that uses its cache.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_gguf.errors import HubError
from qwen35_gguf.inner_path import can_be_stored
from qwen35_gguf.json_file import is_whole

NOT_CACHED = "not in the cache, and "
MOST_FILES = 100_000  # the Hub itself advises against more
LARGEST_FILE = 1 << 60  # bytes


@dataclass(frozen=True)
class Repository:
    """A model repository at one commit.

    Attributes:
        id: `USER/NAME`.
        commit: its hash.
        files: bytes by path.
        snapshot: the folder in the cache, if these are the files in it; None: those that the Hub has.
        reason: why it is these: what the Hub answers, or that it does not.
        revision: branch, tag or commit that was asked for; None: the main branch.

    """

    id: str
    commit: str
    files: Mapping[str, int]
    snapshot: Path | None = None
    reason: str = ""
    revision: str | None = None


def check_hub_variables() -> None:
    """Import the constants of huggingface_hub, which are made of its variables (HF_ENDPOINT, HF_HUB_DOWNLOAD_TIMEOUT).

    Raises:
        HubError: one of them cannot be what it is.

    """
    try:
        from huggingface_hub import constants  # noqa: F401
    except ValueError as error:
        problem = f"a variable HF_... of the environment is wrong ({_first_line(error)})"
        raise HubError(f"{problem}; correct or unset it") from None


def read_repository(repo: str, revision: str | None = None) -> Repository:
    """List the files of a repository; where the Hub does not answer, those that are in the cache.

    Args:
        repo: `USER/NAME`.
        revision: branch, tag or commit; None: the main branch.

    Raises:
        HubError: there is no such repository, or the Hub does not hand it out, and nothing of it is in the cache.

    """
    check_hub_variables()
    import huggingface_hub

    try:
        with hub_errors(repo, revision, instead="file"):
            found = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    except HubError as error:
        with hub_errors(repo, revision, instead="file"):
            snapshot = cached_snapshot(repo, revision)
        if snapshot is None:
            raise
        files = {
            path.relative_to(snapshot).as_posix(): path.stat().st_size for path in snapshot.rglob("*") if path.is_file()
        }
        reason = str(error).removeprefix(f"{repo}: ").removeprefix(NOT_CACHED).partition(";")[0]
        return Repository(repo, snapshot.name, files, snapshot, reason, revision)
    return Repository(repo, str(found.sha), _sizes(repo, found.siblings or ()), revision=revision)


def _sizes(repo: str, listed: Iterable[Any]) -> dict[str, int]:
    """Return the bytes of each file that a cache can hold; a server may send names and sizes of any kind."""
    sizes: dict[str, int] = {}
    for file in listed:
        name, size = file.rfilename, file.size or 0
        if not isinstance(name, str) or not is_whole(size, 0, LARGEST_FILE):
            raise HubError(f"{repo}: the Hub lists a file without a name or size; try again later")
        if len(sizes) == MOST_FILES:
            raise HubError(f"{repo}: has more than {MOST_FILES:,} files; download the model, and name its path")
        if can_be_stored(name):
            sizes[name] = size
    return sizes


def cached_snapshot(repo: str, revision: str | None = None) -> Path | None:
    """Return the folder in the cache of a repository's branch, tag or commit; None if nothing of it is there."""
    check_hub_variables()
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except OSError:
        if revision is None:
            return None
        snapshot = folder / "snapshots" / revision
    return snapshot if snapshot.is_dir() else None


def cached_file(repository: Repository, file: str) -> Path | None:
    """Return the path of a file that is in the cache, in the repository's commit; None if it is not."""
    import huggingface_hub

    if repository.snapshot is not None:
        path = repository.snapshot / file
        return path if path.is_file() else None
    found = huggingface_hub.try_to_load_from_cache(repository.id, file, revision=repository.commit)
    return Path(found) if isinstance(found, str) else None


def download(repo: str, patterns: Sequence[str], revision: str | None = None, *, instead: str = "directory") -> Path:
    """Download what matches the patterns into the cache, `.../snapshots/COMMIT`, and return that folder.

    Args:
        repo: `USER/NAME`.
        patterns: of paths, as of `fnmatch`.
        revision: branch, tag or commit.
        instead: what could be named in place of the repository.

    Raises:
        HubError: there is no such repository, or the Hub does not hand it out, and it is not in the cache.

    """
    check_hub_variables()
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    with hub_errors(repo, revision, instead=instead):
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    raise AssertionError("unreachable")


@contextlib.contextmanager
def hub_errors(repo: str, revision: str | None = None, *, instead: str = "directory") -> Iterator[None]:
    """Turn what huggingface_hub raises within a block into one line.

    Raises:
        HubError: with the reason, and what to do.

    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = constants.ENDPOINT
    try:
        yield
        return
    except HubError:
        raise
    except GatedRepoError:  # before RepositoryNotFoundError, of which it is a kind
        problem = f"gated; accept the licence on {hub}/{repo}, then log in with `hf auth login` or set HF_TOKEN"
    except RepositoryNotFoundError:
        problem = (
            f"no such {instead} here, and no such model on the Hub; check the spelling, "
            "or log in with `hf auth login` if it is private"
        )
    except RevisionNotFoundError:
        problem = f"has no revision {revision}; leave out --revision or name a branch, tag or commit of it"
    except HFValidationError as error:
        problem = f"not a Hub id: {_first_line(error)}"
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError | FileMetadataError):
            problem = f"{NOT_CACHED}{hub} answers: {_first_line(error.__cause__)}; pass a {instead}"
        else:
            problem = _unreachable(hub, instead)
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        problem = f"the Hub answered {status} ({_first_line(error)}); try again later, or pass a {instead}"
    except Exception as error:  # the HTTP client, and with it its errors, differs between versions of huggingface_hub
        if isinstance(error, ConnectionError) or type(error).__name__ in ("ConnectError", "ConnectTimeout"):
            problem = _unreachable(hub, instead)
        else:
            problem = f"download failed ({type(error).__name__}: {_first_line(error)}); run it again to resume"
    raise HubError(f"{repo}: {problem}") from None


def _unreachable(hub: str, instead: str) -> str:
    return (
        f"{NOT_CACHED}{hub} cannot be reached; "
        f"check the network (and that HF_HUB_OFFLINE is unset), or pass a {instead}"
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
