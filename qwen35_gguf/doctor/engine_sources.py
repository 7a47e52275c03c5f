"""Where an engine, a llama.cpp with the patches, comes from: a table, tried from top to bottom until one fits.

Each source is a command that puts a wheel into a folder. Nothing of it touches what is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qwen35_gguf.doctor.engine import Expected
from qwen35_gguf.llama_package import BINDINGS, DISTRIBUTIONS, ENGINE

PIP = (sys.executable, "-m", "pip")
QUICK = ("--retries", "1", "--timeout", "15")
DIST = "dist"  # of a clone: what `make wheels` makes


@dataclass(frozen=True)
class Wanted:
    """What decides where an engine may come from.

    Attributes:
        expected: what this package is made for.
        find_links: folders or pages with wheels, which count instead of the package index.
        cuda: architecture of NVIDIA GPUs to compile for; empty for none.
        compiled: a llama-cpp-python with patches is installed, which is used before any engine.

    """

    expected: Expected
    find_links: tuple[str, ...] = ()
    cuda: str = ""
    compiled: bool = False

    @property
    def requirement(self) -> str:
        """The engine, for pip."""
        name = DISTRIBUTIONS[ENGINE]
        version = self.expected.versions.get(name)
        return f"{name}=={version}" if version else name


@dataclass(frozen=True)
class Source:
    """A way to a wheel.

    Attributes:
        name: wheel, sdist or clone.
        text: what it is, for the user.
        command: puts a wheel into the folder that is added as its last argument.
        package: what the wheel is imported as.
        compiles: whether it needs a C++ compiler, and minutes.

    """

    name: str
    text: str
    command: tuple[str, ...]
    package: str = ENGINE
    compiles: bool = False


def sources(wanted: Wanted) -> list[Source]:
    """List the sources that may have an engine, the best first."""
    return [source for rule in (_REBUILT if wanted.compiled else SOURCES) for source in rule(wanted)]


def _wheels(wanted: Wanted) -> Iterator[Source]:
    """Yield wheels: in folders that are named, in that of the clone, on the package index."""
    if wanted.cuda:
        return  # wheels are for processors
    download = (*PIP, "download", "--quiet", "--no-deps", "--only-binary=:all:", *QUICK, wanted.requirement)
    made = wanted.expected.clone / DIST if wanted.expected.clone else None
    folders = wanted.find_links or ((str(made),) if made and list(made.glob(f"{ENGINE}-*.whl")) else ())
    if folders:
        links = [word for folder in folders for word in ("--find-links", folder)]
        text = f"a wheel of {wanted.requirement} in {', '.join(folders)}"
        yield Source("wheel", text, (*download, "--no-index", *links, "--dest"))
    if not wanted.find_links:
        yield Source("wheel", f"a wheel of {wanted.requirement} on the package index", (*download, "--dest"))


def _clone(wanted: Wanted) -> Iterator[Source]:
    """Yield the build of a clone, which is for this processor and its GPU."""
    clone = wanted.expected.clone
    if clone is not None and not wanted.find_links:
        build = (sys.executable, str(clone / "patches" / "build.py"))
        cuda = ("--cuda", wanted.cuda) if wanted.cuda else ()
        text = f"{DISTRIBUTIONS[BINDINGS]}, compiled with the patches of {clone}"
        yield Source("clone", text, (*build, *cuda, "--wheel"), BINDINGS, compiles=True)


def _sdist(wanted: Wanted) -> Iterator[Source]:
    """Yield the source of the engine, for processors and C libraries without a wheel."""
    if wanted.cuda or wanted.find_links or wanted.expected.clone:
        return
    text = f"{wanted.requirement}, compiled from its source on the package index"
    command = (*PIP, "wheel", "--quiet", "--no-deps", "--no-binary=:all:", wanted.requirement, "--wheel-dir")
    yield Source("sdist", text, command, compiles=True)


Rule = Callable[[Wanted], Iterator[Source]]
SOURCES: tuple[Rule, ...] = (_wheels, _clone, _sdist)
_REBUILT: tuple[Rule, ...] = (_clone, _wheels, _sdist)
