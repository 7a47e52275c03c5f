"""`qwen35 setup` takes the first engine that runs here, and touches nothing before it has run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qwen35_gguf.cli import main
from qwen35_gguf.commands.run import setup as verb
from qwen35_gguf.doctor import setup
from qwen35_gguf.doctor.engine import Engine, Expected
from qwen35_gguf.doctor.engine_sources import Source, Wanted, sources
from qwen35_gguf.doctor.host import Host
from qwen35_gguf.errors import SetupError

pytestmark = pytest.mark.unit

FIRST = Source("wheel", "the first", ("get", "first"))
SECOND = Source("wheel", "the second", ("get", "second"))
COMPILED = Source("clone", "a build", ("get", "built"), "llama_cpp", compiles=True)

Engines = Callable[..., Engine]


class Commands:
    """Plays the commands: a source makes a wheel of its name, unless it is to fail."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.done = failing, list[tuple[str, ...]]()

    def __call__(self, command: Sequence[str]) -> str:
        self.done.append(tuple(command))
        if command[0] == "get":
            if command[1] in self.failing:
                return f"no {command[1]}"
            Path(command[-1], f"{command[1]}.whl").touch()
        elif "--target" not in command and "install" in self.failing:
            return "disk full"
        return ""

    @property
    def installed(self) -> list[str]:
        """The wheels that were installed, not only tried."""
        paths = [
            word for command in self.done if "--target" not in command for word in command if word.endswith(".whl")
        ]
        return list(dict.fromkeys(Path(path).stem for path in paths))


def install(commands: Commands, found: Sequence[Source], host: Callable[..., Host], engine: Engine) -> Source:
    return setup.install(found, host(), say=lambda _: None, run=commands, attempt=lambda *_: engine)


def test_the_first_that_runs_is_installed(host: Callable[..., Host], engine: Engines) -> None:
    commands = Commands()
    assert install(commands, [FIRST, SECOND], host, engine()) is FIRST
    assert commands.installed == ["first"]
    commands = Commands("first")
    assert install(commands, [FIRST, SECOND], host, engine()) is SECOND
    assert commands.installed == ["second"]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"failure": "it ends by an illegal instruction", "illegal": True}, "illegal instruction"),
        ({"features": frozenset({"AMX_INT8"})}, "it needs AMX_INT8, which this processor does not have"),
        ({"patches": ()}, "it is without the patches"),
        ({"installed": None}, "it has no llama.cpp"),
    ],
)
def test_one_that_does_not_run_here_is_not_installed(
    attributes: dict[str, object], reason: str, host: Callable[..., Host], engine: Engines
) -> None:
    commands = Commands()
    with pytest.raises(SetupError, match=f"no source fits; the first: .*{reason}"):
        install(commands, [FIRST], host, engine(**attributes))
    assert commands.installed == []


def test_an_engine_takes_the_place_of_a_build_that_would_be_used_before_it(
    host: Callable[..., Host], engine: Engines
) -> None:
    for source, replaces, gone in ((FIRST, True, True), (FIRST, False, False), (COMPILED, True, False)):
        commands = Commands()
        say, attempt = [].append, lambda *_: engine()
        setup.install([source], host(), say=say, run=commands, replaces=replaces, attempt=attempt)
        assert any("uninstall" in command for command in commands.done) == gone


def test_what_pip_refuses_is_one_line(host: Callable[..., Host], engine: Engines) -> None:
    with pytest.raises(SetupError, match=r"cannot be installed \(disk full\); what was installed is as it was"):
        install(Commands("install"), [FIRST], host, engine())


def test_a_build_needs_a_compiler(host: Callable[..., Host], engine: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.shutil, "which", lambda _: None)
    commands = Commands()
    with pytest.raises(SetupError, match=r"no C\+\+ compiler \(`sudo apt-get install g\+\+`\)"):
        install(commands, [COMPILED], host, engine())
    assert commands.done == []


# ---- where engines come from -------------------------------------------------------------------------------------


def names(*, clone: Path | None = None, **attributes: Any) -> list[str]:
    return [source.name for source in sources(Wanted(Expected(clone), **attributes))]


def test_the_table_of_sources(tmp_path: Path) -> None:
    assert names() == ["wheel", "sdist"]
    assert names(clone=tmp_path) == ["wheel", "clone"]
    assert names(clone=tmp_path, compiled=True) == ["clone", "wheel"]
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "qwen35_engine-0.3.36.post1-py3-none-manylinux_2_28_x86_64.whl").touch()
    assert names(clone=tmp_path) == ["wheel", "wheel", "clone"]
    assert str(tmp_path / "dist") in sources(Wanted(Expected(tmp_path)))[0].command
    assert names(find_links=("/wheels",)) == ["wheel"]
    assert names(clone=tmp_path, cuda="86") == ["clone"]
    assert names(cuda="86") == []


def test_the_version_is_the_one_that_the_package_is_made_for() -> None:
    assert Wanted(Expected(versions={"qwen35-engine": "0.3.36.post1"})).requirement == "qwen35-engine==0.3.36.post1"
    assert Wanted(Expected()).requirement == "qwen35-engine"


def test_the_rest_of_the_extra_is_installed_too() -> None:
    extras = ["numpy>=1", 'qwen35-engine==0.3.36.post1; extra == "runtime"', "llguidance<2,>=1.9; extra == 'runtime'"]
    assert setup.companions([*extras, "starlette; extra == 'server'"]) == ["llguidance<2,>=1.9"]


# ---- the command -------------------------------------------------------------------------------------------------


def test_nothing_is_done_where_nothing_is_wrong(engine: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "find_engine", engine)
    monkeypatch.setattr(verb, "engine_findings", lambda *_: [])
    monkeypatch.setattr(verb, "install", lambda *_, **__: pytest.fail("installed"))
    result = CliRunner().invoke(main, ["setup"])
    assert (result.exit_code, result.stdout) == (
        0,
        "nothing to do: llama-cpp-python 0.3.36, patched, runs on this machine\n",
    )


def test_a_dry_run_shows_and_changes_nothing(engine: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "find_engine", lambda: engine(installed=None))
    monkeypatch.setattr(verb, "install", lambda *_, **__: pytest.fail("installed"))
    result = CliRunner().invoke(main, ["setup", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "engine-missing" in result.stderr
    assert "1. a wheel of qwen35-engine==" in result.stdout
    assert "--force-reinstall --no-deps FOLDER/WHEEL" in result.stdout


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("no pip", "ensurepip"),
        ("read-only", "cannot be written"),
    ],
)
def test_an_environment_that_pip_cannot_use_is_refused(
    broken: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "no pip":
        monkeypatch.setattr(setup.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(setup.os, "access", lambda *_: broken != "read-only")
    with pytest.raises(SetupError, match=message):
        setup.check_environment(tmp_path)


def test_a_failed_command_is_logged(tmp_path: Path) -> None:
    import sys

    run = setup.run_logged(tmp_path / "cache" / "setup.log")
    assert run([sys.executable, "-c", "print('fine')"]) == ""
    assert run([sys.executable, "-c", "print('ERROR: no wheel'); print('[notice] x'); exit(1)"]) == "no wheel"
    assert run(["/nonexistent"]) != ""
    text = (tmp_path / "cache" / "setup.log").read_text(encoding="utf-8")
    assert "fine" in text
    assert "ERROR: no wheel" in text
