"""What all commands have in common: --json, --quiet, options given once, and messages that name options as typed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from inputs.adapters import low_rank, write_adapter
from oracles.paths import ROOT, TINY
from qwen35_gguf import progress
from qwen35_gguf.cli import main
from qwen35_gguf.commands import discover, output
from qwen35_gguf.commands.names.option_names import as_typed, typed_spelling
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.convert import hf_to_gguf
from qwen35_gguf.doctor.finding import Finding
from qwen35_gguf.errors import MessageError
from qwen35_gguf.gguf_file import shards
from qwen35_gguf.runtime.llama import rpc

VERBS = [subcommand.verb for group in discover.groups() for subcommand in group.subcommands]


def run(*arguments: object, **options: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]


# ---- every command: --json prints one JSON value and nothing else, --quiet prints nothing on stderr ----------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as a file and as shards, a text, an adapter's folder and a release; treat them as read-only."""
    made = tmp_path_factory.mktemp("verbs")
    text, mmproj = hf_to_gguf.convert(TINY, "Q8_0", made)
    text.rename(made / "model.gguf")
    mmproj.rename(made / "mmproj-model.gguf")
    (exact,) = hf_to_gguf.convert(TINY, "BF16", made, vision=False)
    exact.rename(made / "exact.gguf")
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    sizes = config.get("text_config", config)
    shape = (sizes["intermediate_size"], sizes["hidden_size"])
    write_adapter(made / "adapter", low_rank("layers.0.mlp.up_proj", *shape))
    shards.split(made / "model.gguf", made / "shards", 5_000_000, prefix="part")
    (made / "text.txt").write_text((TINY / "evaluation.txt").read_text(encoding="utf-8")[:3000], encoding="utf-8")
    arguments = ["package", TINY, "-o", made / "release", "--quants", "Q4_0", "--no-measure"]
    assert run(*arguments).exit_code == 0
    assert run("sensitivity", made / "exact.gguf", "-o", made / "costs.json", "--estimate").exit_code == 0
    return made


# The arguments of a run of each command that succeeds; {} is the folder of inputs, [] an empty one.
RUNS: dict[str, tuple[str, ...]] = {
    "convert": ("convert", str(TINY), "-q", "Q4_0", "-o", "[]"),
    "convert --dry-run": ("convert", str(TINY), "--dry-run"),
    "convert-adapter": ("convert-adapter", "{}/adapter", "--base", str(TINY), "-o", "[]/lora.gguf"),
    "verify": ("verify", "{}/model.gguf", "--against", str(TINY), "--no-parity"),
    "run": ("run", "{}/model.gguf", "Hello", "-n", "4", "--no-think", "--ctx", "1k"),
    "run --think": ("run", "{}/model.gguf", "Hello", "-n", "8", "--think", "--thinking-budget", "2", "--ctx", "1k"),
    "run --raw": ("run", "{}/model.gguf", "Hello", "-n", "4", "--raw", "--ctx", "1k"),
    "chat": ("chat", "{}/model.gguf", "-n", "4", "--no-think", "--ctx", "1k"),
    "doctor": ("doctor",),
    "setup": ("setup", "--dry-run"),
    "plan": ("plan", "{}/model.gguf", "--ctx", "8k"),
    "rpc-server": ("rpc-server", "--listen", "127.0.0.1:50999"),
    "serve": ("serve", "{}/model.gguf", "--port", "0"),
    "tune": ("tune", "{}/model.gguf", "--dry-run"),
    "evaluate": ("evaluate", "{}/model.gguf", "--reference", "{}/exact.gguf", "-f", "{}/text.txt", "--chunk", "64",
                 "--chunks", "1"),
    "imatrix": ("imatrix", "{}/model.gguf", "-o", "[]/imatrix.gguf", "-f", "{}/text.txt", "--chunk", "64", "--chunks",
                "1"),
    "recipe": ("recipe", "{}/costs.json", "-o", "[]/recipe.yaml", "--target-bpw", "5"),
    "sensitivity": ("sensitivity", "{}/exact.gguf", "-o", "[]/costs.json", "--estimate", "--types", "Q8_0"),
    "checksum": ("checksum", "{}/release"),
    "checksum --write": ("checksum", "{}/shards", "--write"),
    "diff": ("diff", "{}/model.gguf", "{}/model.gguf"),
    "inspect": ("inspect", "{}/model.gguf"),
    "lint": ("lint", "{}/model.gguf"),
    "merge": ("merge", "{}/shards/part-00001-of-00002.gguf", "-o", "[]/whole.gguf"),
    "split": ("split", "{}/model.gguf", "-o", "[]", "--max-shard-size", "5MB"),
    "models": ("models", "--folder", "{}"),
    "metadata": ("metadata", "{}/model.gguf"),
    "metadata get": ("metadata", "{}/model.gguf", "get", "general.name"),
    "metadata set": ("metadata", "{}/model.gguf", "set", "general.name", "Other", "-o", "[]/other.gguf"),
    "metadata unset": ("metadata", "{}/model.gguf", "unset", "general.name", "-o", "[]/other.gguf"),
    "package": ("package", str(TINY), "-o", "[]/release", "--quants", "Q4_0", "--no-measure"),
    "publish": ("publish", "{}/release", "--repo", "user/name", "--dry-run"),
    "verify-release": ("verify-release", "{}/release", "--against", str(TINY)),
}  # fmt: skip


def test_the_table_has_every_command() -> None:
    assert sorted({arguments[0] for arguments in RUNS.values()}) == sorted(VERBS)


@pytest.fixture
def arguments_of(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(rpc, "serve", lambda *_, **__: None)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    (folder / "shards" / "SHA256SUMS").unlink(missing_ok=True)

    def arguments(name: str) -> list[str]:
        return [word.replace("{}", str(folder)).replace("[]", str(tmp_path)) for word in RUNS[name]]

    return arguments


@pytest.mark.parametrize("name", RUNS)
def test_json_and_quiet(name: str, arguments_of: Callable[[str], list[str]]) -> None:
    result = run(*arguments_of(name), "--json", "--quiet", input="Hello\n/quit\n")
    assert result.exit_code == 0, result.output
    assert result.stderr.replace("> ", "").strip() == ""
    said = result.stdout.replace("> ", "")
    assert isinstance(json.loads(said), dict), said


def keys_of(record: dict[str, object]) -> set[str]:
    """Name the keys of an object, and those of objects in lists."""
    found = set()
    for key, value in record.items():
        objects = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
        found |= {f"{key}[].{inner}" for one in objects for inner in one} or {key}
    return found


@pytest.mark.parametrize("name", ["doctor", "plan", "inspect", "lint", "diff", "models", "evaluate"])
def test_the_documented_keys_are_those_that_are_printed(
    name: str, arguments_of: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Finding("engine-stock", "warning", "problem", "command")
    monkeypatch.setattr("qwen35_gguf.commands.run.doctor.examine", lambda *_: [wrong])
    arguments = arguments_of(name)
    if name == "lint":  # a file in which something is found
        broken = Path(arguments[1].replace("model.gguf", "exact.gguf"))
        arguments[1] = str(shutil.copy(broken, "changed.gguf"))
        assert run("metadata", "changed.gguf", "unset", "tokenizer.chat_template", "--force").exit_code == 0
    printed = keys_of(json.loads(run(*arguments, "--json").stdout))
    page = (ROOT / "docs" / "json-output.md").read_text(encoding="utf-8")
    section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {key for row in rows for key in re.findall("`([^`]+)`", row)} == printed


@pytest.mark.parametrize("name", ["convert", "run --think", "chat", "imatrix", "evaluate", "package"])
def test_quiet_alone_leaves_the_result(name: str, arguments_of: Callable[[str], list[str]]) -> None:
    result = run(*arguments_of(name), "--quiet", input="Hello\n/quit\n")
    assert result.exit_code == 0, result.output
    assert result.stderr.replace("> ", "").strip() == ""
    assert result.stdout.strip()
    assert " it: qwen35" not in result.stdout
    loud = run(*arguments_of(name), *(["--force"] if name in ("convert", "imatrix") else []), input="Hello\n/quit\n")
    assert loud.exit_code == 0, loud.output
    assert loud.stderr.strip()


# ---- options that are given twice --------------------------------------------------------------------------------


def doubled() -> Iterator[tuple[list[str], str]]:
    """Every option of every command that takes one value, given twice."""
    for verb in VERBS:
        command = discover.load(verb)
        prefix: list[list[str]] = [[]]
        commands = [command]
        if isinstance(command, click.Group):
            commands += list(command.commands.values())
            prefix += [["FILE", name] for name in command.commands]
        for start, one in zip(prefix, commands, strict=True):
            for option in one.params:
                if isinstance(option, click.Option) and not (option.multiple or option.is_flag):
                    yield [verb, *start, option.opts[-1], "1", option.opts[0], "2"], option.opts[-1]
                elif isinstance(option, click.Option) and option.secondary_opts:
                    yield [verb, *start, option.opts[0], option.secondary_opts[0]], option.opts[0]


@pytest.mark.unit
@pytest.mark.parametrize(("arguments", "spelling"), list(doubled()), ids=lambda value: " ".join(value) if value else "")
def test_an_option_that_takes_one_value_is_refused_the_second_time(arguments: list[str], spelling: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"Error: {spelling} is given 2 times; give it once" in result.stderr


@pytest.mark.unit
def test_what_may_be_repeated() -> None:
    @click.command(cls=Verb)
    @click.option("-a", "--all", "every", multiple=True)
    @click.option("-v", "--verbose", is_flag=True)
    @click.option("-x", default="")
    @click.option("--on/--off")
    def command(every: tuple[str, ...], verbose: bool, x: str, on: bool) -> None:
        click.echo(f"{every} {verbose} {x} {on}")

    def call(*arguments: str) -> str:
        return CliRunner().invoke(command, arguments).output

    assert call("-a", "1", "--all=2", "-v", "-v", "-x", "-x") == "('1', '2') True -x False\n"
    assert call("-x", "1", "--", "-x", "2").endswith("(-x 2)\n")
    assert "Error: -x is given 3 times; give it once" in call("-x1", "-x", "2", "-x3")
    assert "Error: --on is given 2 times" in call("--on", "--off")
    assert "Usage" in call("-x", "1", "-x", "2", "--help")
    assert re.search("Error: No such option:? '?-y", call("-x", "1", "-x", "2", "-y"))  # click 8.2 and 8.4


# ---- messages ----------------------------------------------------------------------------------------------------


@click.command(cls=Verb)
@click.option("--ctx")
@click.option("-n", "--tokens")
@click.option("--allow-private", is_flag=True)
@click.option("--think/--no-think", default=None)
@click.option("--no-profile", is_flag=True)
@click.option("--top-p")
@click.option("--draft")
@click.option("--mmproj-types")
@click.argument("text")
def speaking(text: str, **_: object) -> None:
    """Raise an error of the library."""
    raise MessageError(text)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("10.0.0.1: use a public one, or allow_private=True", "10.0.0.1: use a public one, or --allow-private"),
        ("the context is full; raise n_ctx", "the context is full; raise --ctx"),
        ("n_ctx 70,000 needs 3 GB; n_ctx 8,192 fits", "--ctx 70,000 needs 3 GB; --ctx 8,192 fits"),
        ("top_p: 2.0 is not a number from 0 to 1", "--top-p: 2.0 is not a number from 0 to 1"),
        ("max_tokens: 0 is not a whole number from 1", "--tokens: 0 is not a whole number from 1"),
        ("thinking=False does that", "--no-think does that"),
        ("profile=False does that", "--no-profile does that"),
        ("draft: 9 is not valid; draft=0 switches it off", "--draft: 9 is not valid; --draft 0 switches it off"),
        ("--mmproj-type Q4_0: unknown", "--mmproj-types Q4_0: unknown"),
        ("a draft is text; /n_ctx/n_ctx.gguf and 'top_p' stay", "a draft is text; /n_ctx/n_ctx.gguf and 'top_p' stay"),
        ("kv_type: another command's", "kv_type: another command's"),
    ],
)  # fmt: skip
def test_messages_name_the_option(message: str, shown: str) -> None:
    result = CliRunner().invoke(speaking, ["--", message])
    assert (result.exit_code, result.stderr) == (2, f"Error: {shown}\n")


@pytest.mark.unit
def test_the_spelling_is_the_one_that_was_typed() -> None:
    for typed in (["-n", "0"], ["-n0"]):
        assert CliRunner().invoke(speaking, [*typed, "max_tokens: 0"]).stderr == "Error: -n: 0\n"
    assert CliRunner().invoke(speaking, ["--tokens=0", "max_tokens: 0"]).stderr == "Error: --tokens: 0\n"
    assert as_typed("n_ctx", None) == "n_ctx"
    assert typed_spelling(click.Option(["-q"]), []) == "-q"


@pytest.mark.unit
def test_json_is_valid_whatever_the_figures_are() -> None:
    import numpy as np

    @click.command(cls=Verb)
    def command() -> None:
        output.emit({1: [float("nan"), np.float32(0.5), np.bool_(True), Path("a")], "b": (None, "é")})

    result = CliRunner().invoke(command, ["--json"])
    assert json.loads(result.stdout) == {"1": [None, 0.5, True, "a"], "b": [None, "é"]}
