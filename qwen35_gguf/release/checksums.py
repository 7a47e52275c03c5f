"""SHA256SUMS: list the checksums of a folder's files, and verify a download against the list.

The format is that of GNU `sha256sum`: `sha256sum -c SHA256SUMS` checks it as well.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from qwen35_gguf.atomic_file import disk_errors, pending_file
from qwen35_gguf.errors import ChecksumError, OutputError
from qwen35_gguf.inner_path import is_file, is_inside
from qwen35_gguf.json_file import printable

LIST = "SHA256SUMS"
LINE = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
PIECE = 4 << 20
LARGEST_LIST = 64 << 20  # bytes

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Verdict:
    """One file of the list: `problem` is empty if the file is unchanged."""

    name: str
    problem: str = ""


def listed_files(folder: Path) -> list[Path]:
    """Return the files to be listed, by name: all but hidden and temporary files and the list itself."""
    if not folder.is_dir():
        raise ChecksumError(f"{folder}: is not a folder; name the one with the GGUF files")
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if path.is_file() and not hidden and path.suffix != ".part" and parts != (LIST,):
            found.append(path)
    return found


def write(
    folder: Path,
    *,
    known: Mapping[str, str] | None = None,
    force: bool = False,
    jobs: int = 0,
    advance: Advance = lambda _: None,
) -> Path:
    """Write the folder's SHA256SUMS.

    Args:
        folder: with the files.
        known: checksums of files that are not read again, by name.
        force: replace an existing list.
        jobs: threads; 0 for one a core.
        advance: is called with the bytes of each part that was read.

    Raises:
        ChecksumError: there is no file, a name cannot be listed, or a file cannot be read.
        OutputError: the list exists already, or cannot be written.

    """
    files = listed_files(folder)
    target = folder / LIST
    if not force and os.path.lexists(target):
        raise OutputError(f"{target}: exists already; use --force to replace it")
    if not files:
        raise ChecksumError(f"{folder}: has no files to list; name the folder with the GGUF files")
    names = [path.relative_to(folder).as_posix() for path in files]
    for name in names:
        if "\n" in name or "\r" in name or "\\" in name or not _is_utf8(name):
            raise ChecksumError(f"{folder}: the name {name!r} cannot be listed in {LIST}; rename the file")
    found = dict(known or {})
    unknown = [(name, path) for name, path in zip(names, files, strict=True) if name not in found]
    taken = digests([path for _, path in unknown], jobs, advance)
    found |= dict(zip((name for name, _ in unknown), taken, strict=True))
    with pending_file(target, force=True) as made:
        with disk_errors(made.part):
            made.file.writelines(f"{found[name]}  {name}\n".encode() for name in names)
        made.finish()
        made.publish()
    return target


def read_list(folder: Path) -> dict[str, str]:
    """Read the folder's SHA256SUMS: name -> digest.

    Raises:
        ChecksumError: it is missing, malformed, or names a file outside of the folder.

    """
    path = folder / LIST
    try:
        size = path.stat().st_size
        if not path.is_file():  # a pipe would be waited for
            raise ChecksumError(f"{path}: is not a file; download it again")
        if size > LARGEST_LIST:
            raise ChecksumError(f"{path}: is larger than {LARGEST_LIST >> 20} MiB; download it again")
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise ChecksumError(f"{path}: is missing; download it, or make it with `qwen35 checksum --write`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ChecksumError(f"{path}: cannot be read ({error}); download it again") from None
    expected: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = LINE.fullmatch(line.removesuffix("\r"))
        if found is None:
            raise ChecksumError(f"{path}: line {number} is not a checksum and a name; download it again")
        if not is_inside(found["name"]):
            raise ChecksumError(
                f"{path}: line {number} names {printable(found['name'])}, outside of the folder; download it again"
            )
        if expected.setdefault(found["name"], found["digest"].lower()) != found["digest"].lower():
            raise ChecksumError(f"{path}: has two checksums of {printable(found['name'])}; download it again")
    if not expected:
        raise ChecksumError(f"{path}: is empty; download it again")
    return expected


def _is_utf8(name: str) -> bool:
    """Whether a name is text; one of other bytes has half a pair of surrogates for each of them."""
    return name.encode("utf-8", "replace").decode() == name


def verify(folder: Path, *, jobs: int = 0, advance: Advance = lambda _: None) -> list[Verdict]:
    """Verify the folder's files against its SHA256SUMS, in the list's order.

    Raises:
        ChecksumError: the list is missing or malformed, or a file cannot be read.

    """
    expected = read_list(folder)
    there = [name for name in expected if is_file(folder / name)]
    found = dict(zip(there, digests([folder / name for name in there], jobs, advance), strict=True))
    verdicts = []
    for name, digest in expected.items():
        if name not in found:
            verdicts.append(Verdict(name, "is missing"))
        else:
            verdicts.append(Verdict(name, "" if found[name] == digest else "differs; download it again"))
    return verdicts


def digest(path: Path, advance: Advance = lambda _: None) -> str:
    """Return a file's SHA-256 as hexadecimal digits.

    Raises:
        ChecksumError: it is not a file, cannot be read, or grows or shrinks meanwhile.

    """
    total = hashlib.sha256()
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device has no end
        raise ChecksumError(f"{path}: is not a file; remove it")
    try:
        with path.open("rb") as file:
            left = size = os.fstat(file.fileno()).st_size
            while left >= 0 and (piece := file.read(PIECE)):
                total.update(piece)
                advance(len(piece))
                left -= len(piece)
    except OSError as error:
        raise ChecksumError(f"{path}: cannot be read ({error.strerror or error})") from None
    if left:
        change = "grew" if left < 0 else "was truncated"
        raise ChecksumError(f"{path}: {change} while it was read, from {size:,} bytes; wait until it is written")
    return total.hexdigest()


def digests(paths: Sequence[Path], jobs: int = 0, advance: Advance = lambda _: None) -> list[str]:
    """Return the SHA-256 of files, computed in parallel: hashlib releases the GIL.

    Raises:
        ChecksumError: one cannot be read.

    """
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda path: digest(path, advance), paths))
