"""Compilers for Linux of any processor and with any old C library, and for Windows: those of the package ziglang.

A shared library that is linked on a new system asks for its new C library. Zig's clang links against the C library of
the version that it is asked for, for Windows against the one that Windows brings, and carries the C++ library inside.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from sdist import cache_folder, fail

GLIBC = "2.28"  # of manylinux_2_28: Debian 10, Ubuntu 20.04, RHEL 8 and everything after them
# clang's options for instruction sets of ARM, which zig's driver takes in a notation of its own.
MARCH = r"""for argument do
  shift
  case "$argument" in
    -march=armv*) argument=$(printf %s "$argument" | sed 's/^-march=armv\([0-9]*\)-a/-mcpu=generic+v\1a/
      s/^-march=armv\([0-9]*\)\.\([0-9]*\)-a/-mcpu=generic+v\1_\2a/
      s/+fp16/+fullfp16/') ;;
  esac
  set -- "$@" "$argument"
done
"""


LINUX, WINDOWS = "linux", "windows"
WINDOWS_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Target:
    """A system to build for.

    Attributes:
        machine: "x86_64" or "aarch64".
        glibc: the oldest C library that it has, if it is Linux.
        system: "linux" or "windows".

    """

    machine: str
    glibc: str = GLIBC
    system: str = LINUX

    @property
    def platform_tag(self) -> str:
        """The tag of wheels for it."""
        if self.system == WINDOWS:
            return f"win_{WINDOWS_MACHINES[self.machine]}"
        return f"manylinux_{self.glibc.replace('.', '_')}_{self.machine}"

    @property
    def python_platform(self) -> str:
        """What Python calls it; of Linux before auditwheel has looked at the wheel."""
        if self.system == WINDOWS:
            return f"win-{WINDOWS_MACHINES[self.machine]}"
        return f"linux-{self.machine}"

    @property
    def triple(self) -> str:
        """What zig calls it."""
        if self.system == WINDOWS:
            return f"{self.machine}-windows-gnu"
        return f"{self.machine}-linux-gnu.{self.glibc}"

    @property
    def is_foreign(self) -> bool:
        """Whether this machine is of another kind."""
        return platform.machine() != self.machine or not sys.platform.startswith(self.system)


def zig() -> Path:
    """Return the path of the program."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        fail("ziglang is not installed: it compiles for old systems; install it: pip install ziglang")
    return Path(next(iter(spec.submodule_search_locations)), "zig")


def environment(target: Target) -> dict[str, str]:
    """Return the environment with which pip builds a wheel for that system."""
    folder = cache_folder() / "zig" / (f"{target.machine}-{target.glibc}" if target.system == LINUX else target.triple)
    folder.mkdir(parents=True, exist_ok=True)
    rewrite = MARCH if target.machine == "aarch64" else ""
    tools = {
        "CC": _script(folder / "zig-cc", f'{rewrite}exec {shlex.quote(str(zig()))} cc -target {target.triple} "$@"'),
        "CXX": _script(folder / "zig-c++", f'{rewrite}exec {shlex.quote(str(zig()))} c++ -target {target.triple} "$@"'),
    }
    tools["AR"] = _script(folder / "zig-ar", f'exec {shlex.quote(str(zig()))} ar "$@"')
    tools["RANLIB"] = _script(folder / "zig-ranlib", f'exec {shlex.quote(str(zig()))} ranlib "$@"')
    tools["RC"] = _script(folder / "zig-rc", f'exec {shlex.quote(str(zig()))} rc "$@"')
    options = [f"-DCMAKE_AR={tools['AR']}", f"-DCMAKE_RANLIB={tools['RANLIB']}", "-DCMAKE_STRIP=/bin/true"]
    if target.is_foreign:
        options += [f"-DCMAKE_SYSTEM_NAME={target.system.title()}", f"-DCMAKE_SYSTEM_PROCESSOR={target.machine}"]
        # Otherwise those of the other system are fetched, and for Windows Visual Studio is looked for.
        tools |= {"CMAKE_EXECUTABLE": _program("cmake"), "CMAKE_MAKE_PROGRAM": _program("ninja")}
        tools["CMAKE_GENERATOR"] = "Ninja"
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder / "cache"), "ZIG_LOCAL_CACHE_DIR": str(folder / "cache")}
    return (
        dict(os.environ)
        | caches
        | tools
        | {
            "CCACHE_COMPILERTYPE": "clang",
            "CMAKE_ARGS": " ".join([*options, os.environ.get("CMAKE_ARGS", "")]),
            "_PYTHON_HOST_PLATFORM": target.python_platform,
        }
    )


def search_path() -> str:
    """Return where programs are looked for: beside this Python, where pip puts them, and where the shell looks."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _program(name: str) -> str:
    """Return the path of a program; of a package, that behind its script, whose modules pip hides from a build."""
    spec = importlib.util.find_spec(name)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (path := Path(folder, "data", "bin", name)).is_file():
            return str(path)
    return shutil.which(name, path=search_path()) or fail(f"{name} is not installed; install it: pip install {name}")


def _script(path: Path, body: str) -> str:
    text = f"#!/bin/sh\n{body}\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:  # ccache compares the time
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    return str(path)
