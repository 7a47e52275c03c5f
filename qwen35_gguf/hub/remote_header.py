"""The header of a file on the Hub, read by range requests: what is known of a model before it is downloaded.

It is put into a file of the same name and length whose data are a hole, so that whatever reads headers reads it as any
other file. Sources: RFC 9110 (range requests), huggingface_hub's `http_stream_backoff`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from qwen35_gguf.atomic_file import disk_errors
from qwen35_gguf.errors import HubError
from qwen35_gguf.gguf_file.reader import read_beginning
from qwen35_gguf.hub.client import Repository, cached_file, hub_errors

FIRST = 1 << 18  # bytes of the first request; the header of a model with the vocabulary of Qwen3.5 has about 11 MB
LARGEST = 1 << 28  # no header is longer
FAILURES = 3  # requests in a row that bring next to nothing
LEAST = 1 << 10  # bytes; with fewer for each request a server could keep us for ever
PARTIAL = 206  # HTTP status


def copy_headers(repository: Repository, files: Sequence[str], folder: Path) -> list[Path]:
    """Put files into a folder of which only the headers are there; what is in the cache is linked.

    Args:
        repository: of the files.
        files: their paths in it.
        folder: where they go; those of one folder of the repository are in one folder.

    Returns:
        Their paths.

    Raises:
        HubError: the Hub does not hand one out, or cannot be reached.
        GgufError: one is not a GGUF file, or damaged.
        OutputError: the folder cannot be written.

    """
    return [_copy_header(repository, file, folder / _place(file)) for file in files]


def _place(file: str) -> Path:
    """Return where a file goes; files of one name may be in several folders, whose own names may be long."""
    path = PurePosixPath(file)
    if len(path.parts) == 1:
        return Path(path)
    return Path(hashlib.sha256(str(path.parent).encode()).hexdigest()[:16], path.name)


def _copy_header(repository: Repository, file: str, path: Path) -> Path:
    if path.exists():
        return path
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
    if (here := cached_file(repository, file)) is not None:
        with disk_errors(path):
            path.symlink_to(here.absolute())
        return path
    data = read_remote(repository, file)
    with disk_errors(path), path.open("xb") as copy:
        copy.write(data)
        copy.truncate(repository.files[file])
    return path


def read_remote(repository: Repository, file: str) -> bytes:
    """Read the first bytes of a GGUF file on the Hub, at least its header.

    Raises:
        HubError: the Hub does not hand it out, or cannot be reached.
        GgufError: it is not a GGUF file, or damaged.

    """
    size, name = repository.files[file], Path(f"{repository.id}/{file}")
    data, wanted = b"", min(FIRST, size)
    while True:
        data = _read_until(repository, file, data, wanted)
        if read_beginning(name, data, size) is not None:
            return data
        if wanted == min(size, LARGEST):
            raise HubError(f"{repository.id}: {file} has no end of its header; choose another file")
        wanted = min(4 * wanted, size, LARGEST)


def _read_until(repository: Repository, file: str, data: bytes, stop: int) -> bytes:
    """Extend the first bytes of a file to `stop` bytes; a connection that breaks is made again."""
    failures = 0
    while len(data) < stop:
        with hub_errors(repository.id, instead="file"):
            more, broken = _read_range(repository, file, len(data), stop)
            data += more
            failures = 0 if len(more) >= LEAST else failures + 1
            if failures >= FAILURES and len(data) < stop:
                raise broken or HubError(
                    f"{repository.id}: {file} ends after {len(data):,} bytes; try again later, or choose another file"
                )
    return data


def _read_range(repository: Repository, file: str, start: int, stop: int) -> tuple[bytes, Exception | None]:
    """Request a range of bytes; return what came, and why it is not all of it."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    url = hf_hub_url(repository.id, file, revision=repository.commit)
    headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    got, broken = bytearray(), None
    with http_stream_backoff("GET", url, headers=headers, timeout=timeout) as answer:
        hf_raise_for_status(answer)
        skipped = 0 if answer.status_code == PARTIAL else start  # the whole file, where ranges are not known
        if not skipped and start and _first_byte(answer.headers.get("Content-Range", "")) != start:
            raise HubError(f"{repository.id}: other bytes of {file} came than were asked for; try again later")
        try:
            for part in answer.iter_bytes():
                got += part
                if len(got) >= skipped + stop - start:
                    break
        except Exception as error:  # not out of the block, which would request it again
            broken = error
    return bytes(got[skipped : skipped + stop - start]), broken


def _first_byte(content_range: str) -> int | None:
    """Read where an answer with a part of a file begins (RFC 9110, section 14.4)."""
    found = re.match(r"bytes (\d{1,19})-", content_range, re.ASCII)
    return int(found[1]) if found else None
