"""Types of option values, alone and in the commands: a wrong value is a usage error of one line."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from oracles.paths import ROOT
from qwen35_gguf.cli import main
from qwen35_gguf.commands import parameter_types

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (parameter_types.SIZE, "1.5GB", 1_500_000_000),
        (parameter_types.MEMORY, "8GiB", 8 << 30),
        (parameter_types.DURATION, "5min", 300.0),
        (parameter_types.LAYERS, "auto", "auto"),
        (parameter_types.LAYERS, "-1", -1),
        (parameter_types.ENDPOINTS, "", ()),
        (parameter_types.ENDPOINTS, "a:1, b:2,", ("a:1", "b:2")),
    ],
)
def test_values(type_: object, text: str, value: object) -> None:
    @click.command()
    @click.option("--value", type=type_, default=text)
    def command(value: object) -> None:
        click.echo(repr(value))

    for arguments in ([], ["--value", text]):
        result = CliRunner().invoke(command, arguments)
        assert (result.exit_code, result.output) == (0, f"{value!r}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["split", "x", "-o", "y", "--max-shard-size", "many"], "'--max-shard-size': 'many' is not a size; write"),
        (["plan", "x", "--ram", "-1GB"], "'--ram': '-1GB' is not a size; write"),
        (["plan", "x", "--vram", "9999999TB"], "'--vram': '9999999TB' is not a size from 1 byte to 1,024 TiB"),
        (["recipe", "x", "-o", "y", "--target-size", "0"], "'--target-size': '0' is not a size from 1 byte"),
        (["tune", "x", "--budget", "2d"], "'--budget': '2d' is not a duration; write"),
        (["plan", "x", "--ctx", "9" * 5000], "is not a length; write"),
        (["plan", "x", "--batch", "9" * 30], "is not a length; write"),
        (["tune", "x", "--rpc", "nowhere"], "'--rpc'"),
        (["run", "x", "--gpu-layers", "-2"], "'--gpu-layers': '-2' is not a whole number"),
        (["sensitivity", "x", "-o", "y", "--types", "Q4_K,Q9"], "'--types': 'Q9' is not a type of weights"),
    ],
)
def test_wrong_values(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_the_help_names_what_is_expected() -> None:
    shown = CliRunner().invoke(main, ["plan", "--help"]).output
    assert "--ram SIZE" in shown
    assert "--rpc HOST:PORT,..." in shown
    assert "--budget TIME" in CliRunner().invoke(main, ["tune", "--help"]).output


def test_no_type_needs_a_newer_click() -> None:
    """click.ParamType takes a type parameter since 8.4 only."""
    for path in Path(ROOT, "qwen35_gguf", "commands").rglob("*.py"):
        assert "ParamType[" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("poet.gguf", ("poet.gguf", 1.0)),
        ("poet.gguf:0.5", ("poet.gguf", 0.5)),
        ("poet.gguf:-1", ("poet.gguf", -1.0)),
        (r"C:\lora\poet.gguf", (r"C:\lora\poet.gguf", 1.0)),
        (r"C:\lora\poet.gguf:2", (r"C:\lora\poet.gguf", 2.0)),
        ("a:b.gguf", ("a:b.gguf", 1.0)),
        (":0.5", (":0.5", 1.0)),
    ],
)
def test_adapters_with_a_scale(text: str, wanted: tuple[str, float]) -> None:
    path, scale = parameter_types.ADAPTER.convert(text, None, None)
    assert (str(path), scale) == wanted


def test_a_file_whose_name_ends_like_a_scale_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "poet:2").write_text("")
    assert parameter_types.ADAPTER.convert(str(tmp_path / "poet:2"), None, None) == (tmp_path / "poet:2", 1.0)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("reasoning_effort=low", ("reasoning_effort", "low")),
        ("preserve_thinking=true", ("preserve_thinking", True)),
        ("depth=3", ("depth", 3)),
        ("name=a=b", ("name", "a=b")),
        ("empty=", ("empty", "")),
    ],
)
def test_an_option_of_a_template_is_a_name_and_json_or_text(text: str, pair: tuple[str, object]) -> None:
    assert parameter_types.TEMPLATE_OPTION.convert(text, None, None) == pair


@pytest.mark.parametrize("text", ["low", "=low", ""])
def test_what_is_not_a_name_and_a_value_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not KEY=VALUE"):
        parameter_types.TEMPLATE_OPTION.convert(text, None, None)
