"""Somebody who has not typed enough sees what to type; nobody is asked without a terminal; the Tab key completes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.shell_completion import BashComplete, ShellComplete
from click.testing import CliRunner, Result

from oracles.paths import ROOT
from qwen35_gguf import cli
from qwen35_gguf.commands.first_contact import choose_model, completion, welcome
from qwen35_gguf.commands.run import run as run_module
from qwen35_gguf.doctor.engine import Engine
from qwen35_gguf.hub.stored_models import StoredModel
from qwen35_gguf.runtime.planning.plan import Machine

pytestmark = pytest.mark.unit

GB = 10**9
HEAVY = "{'numpy', 'gguf', 'llama_cpp', 'huggingface_hub', 'rich'}"


def run(*arguments: str, answers: str = "") -> Result:
    return CliRunner().invoke(cli.main, arguments, input=answers, prog_name="qwen35")


def imported_by(call: str, **variables: str) -> list[str]:
    """Run the command in a process of its own; return the lines that it prints, and which heavy modules it imported."""
    code = (
        f"import sys; from qwen35_gguf import cli\ntry:\n {call}\nfinally:\n print(sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )
    return done.stdout.splitlines()


# ---- qwen35 alone ------------------------------------------------------------------------------------------------


def test_the_command_alone_shows_three_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(welcome, "installed_runtime", lambda: "some")
    result = run()
    assert result.exit_code == 0
    for word in ("Run a model", "Convert one", "Publish one", "qwen35 --help", "qwen35 doctor"):
        assert word in result.stdout
    assert "qwen35 setup" not in result.stdout
    monkeypatch.setattr(welcome, "installed_runtime", lambda: None)
    assert "`qwen35 setup` installs it" in run().stdout


def test_every_command_of_the_text_is_accepted() -> None:
    lines = [line.strip().split("   ")[0].replace('"', "").split() for line in welcome.STEPS.splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["qwen35"] and not words[1].startswith("-")]
    assert len(commands) == 6
    for verb, *arguments in commands:
        command = cli.main.get_command(cli.main.make_context("qwen35", ["x"]), verb)
        assert command is not None
        command.make_context(verb, arguments)


def test_the_text_imports_nothing_heavy() -> None:
    assert imported_by("cli.main([], standalone_mode=False)")[-1] == "[]"


# ---- without a file ----------------------------------------------------------------------------------------------


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[StoredModel]:
    """The models of this machine, in a list that tests may change."""
    found: list[StoredModel] = []
    monkeypatch.setattr(choose_model, "in_cache", list)
    monkeypatch.setattr(choose_model, "in_folder", lambda _: found)
    monkeypatch.setattr(choose_model, "find_engine", lambda: Engine(None))
    monkeypatch.setattr(choose_model, "machine", lambda _: Machine(12 * GB))
    return found


def model(name: str, last_use: float, kind: str = "model") -> StoredModel:
    return StoredModel(name, kind, (Path(name),), GB, last_use)  # type: ignore[arg-type]


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("verb", ["run", "chat"])
def test_without_a_model_sizes_that_fit_are_offered(verb: str) -> None:
    result = run(verb)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Qwen3.5-9B Q4_K_M" in result.stderr
    assert "27B Q4_K_M" not in result.stderr
    assert "To get Qwen3.5-9B: qwen35 convert Qwen/Qwen3.5-9B -q Q4_K_M" in result.stderr
    assert "First, once: qwen35 setup" in result.stderr
    assert "Error: Missing argument 'FILE'." in result.stderr


@pytest.mark.usefixtures("models")
def test_what_is_offered_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads(run("run", "--json", "--quiet").stdout)
    assert record["models"] == []
    assert [size["command"] for size in record["sizes"] if size["recommended"]] == [
        "qwen35 convert Qwen/Qwen3.5-9B -q Q4_K_M"
    ]
    monkeypatch.setattr(choose_model, "machine", lambda _: Machine(GB // 4))
    assert json.loads(run("run", "--json", "--quiet").stdout) == {"models": [], "sizes": []}
    assert "No size of Qwen3.5 fits" in run("run").stderr


def test_models_that_are_here_are_offered(models: list[StoredModel]) -> None:
    models += [model("models/old.gguf", 1), model("models/new.gguf", 2), model("models/mmproj.gguf", 3, "damaged")]
    result = run("run")
    assert result.exit_code == 2
    assert "  1  models/new.gguf" in result.stderr
    assert 'qwen35 run models/new.gguf "Hello"' in result.stderr
    assert "mmproj" not in result.stderr
    record = json.loads(run("chat", "--json").stdout)
    assert [one["command"] for one in record["models"]] == [
        "qwen35 chat models/new.gguf",
        "qwen35 chat models/old.gguf",
    ]


def test_on_a_terminal_a_model_and_a_prompt_are_asked_for(
    models: list[StoredModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    models += [model("models/old.gguf", 1), model("models/new.gguf", 2)]
    for place in (choose_model, run_module):
        monkeypatch.setattr(place, "is_terminal", lambda: True)
    result = run("run", answers="2\nHello\n")
    assert "Which one" in result.stderr
    assert "models/old.gguf: No such file" in result.stderr


def test_a_prompt_is_asked_for_on_a_terminal_only() -> None:
    result = run("run", "absent.gguf")
    assert (result.exit_code, "Missing argument 'PROMPT'" in result.stderr) == (2, True)


# ---- the Tab key -------------------------------------------------------------------------------------------------


def completed(arguments: Sequence[str], incomplete: str) -> list[tuple[str, str]]:
    shell = ShellComplete(cli.main, {}, "qwen35", "_QWEN35_COMPLETE")
    return [(item.value, item.type) for item in shell.get_completions(list(arguments), incomplete)]


def plain(*values: str) -> list[tuple[str, str]]:
    return [(value, "plain") for value in values]


def test_verbs_and_options_are_completed() -> None:
    assert completed([], "con") == plain("convert", "convert-adapter")
    assert ("--version", "plain") in completed([], "--v")
    assert ("--think", "plain") in completed(["run", "x.gguf"], "--th")


def test_quants_are_completed_in_any_case() -> None:
    assert sorted(completed(["convert", "x", "-q"], "q4_k")) == plain("Q4_K_M", "Q4_K_S")


@pytest.mark.parametrize("verb", ["run", "chat", "serve", "plan", "lint", "tune"])
def test_models_are_completed_and_otherwise_files(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_names", lambda: ["models/a.gguf", "user/name:Q4_K_M"])
    assert completed([verb], "us") == plain("user/name:Q4_K_M")
    assert completed([verb], "./x") == [("./x", "file")]


def test_models_in_folders_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    Path("other.gguf").write_bytes(b"not a model")
    assert completed(["run"], "oth") == [("oth", "file")]


def test_completing_a_verb_imports_nothing_heavy() -> None:
    variables = {"_QWEN35_COMPLETE": "fish_complete", "COMP_WORDS": "qwen35 ", "COMP_CWORD": "con"}
    lines = imported_by("cli.main(prog_name='qwen35')", **variables)
    assert lines[-1] == "[]"
    assert any(line.startswith("plain,convert") for line in lines)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_of_each_shell_prints_a_script(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BashComplete, "_check_version", lambda *_: None)
    result = CliRunner(env={"_QWEN35_COMPLETE": f"{shell}_source"}).invoke(cli.main, [], prog_name="qwen35")
    assert result.exit_code == 0
    assert "_QWEN35_COMPLETE" in result.stdout
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert f"_QWEN35_COMPLETE={shell}_source qwen35" in page
