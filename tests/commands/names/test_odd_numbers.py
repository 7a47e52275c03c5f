"""Odd numbers for each option of each command: a usage error of one line, or a number that can be used."""

from __future__ import annotations

import math

import click
import pytest

from qwen35_gguf.cli import main

pytestmark = pytest.mark.unit

CONTEXT = click.Context(main)
VERBS = {name: main.get_command(CONTEXT, name) for name in main.list_commands(CONTEXT)}
ODD = (
    "nan", "-nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1e400", "1e-400", "-1", "-0", "0", "", " ", "1_000",
    "0x10", "9" * 20, "9" * 5000, "1e39", "5e-324", "٣", "1,5", "1.5.5", "+", "--", "1e", "\u202e1",
)  # fmt: skip


def options() -> list[tuple[str, str]]:
    return [
        (name, max(param.opts, key=len))
        for name, verb in VERBS.items()
        for param in verb.params
        if isinstance(param, click.Option) and not param.is_flag and not param.count
    ]


def numbers(value: object) -> list[float]:
    several = value if isinstance(value, tuple | list) else [value]
    return [one for one in several if isinstance(one, float)]


@pytest.mark.parametrize(("name", "option"), options())
def test_each_option_takes_odd_numbers_or_refuses_them(name: str, option: str) -> None:
    verb = VERBS[name]
    needed = ["x" for param in verb.params if isinstance(param, click.Argument) for _ in range(max(1, param.nargs))]
    for text in ODD:
        refused: click.UsageError | None = None
        try:
            context = verb.make_context(name, [f"{option}={text}", "--", *needed])
        except click.UsageError as error:
            refused = error
        if refused is not None:
            assert refused.exit_code == 2
            assert refused.format_message().count("\n") <= 2
            continue
        for value in context.params.values():
            assert all(map(math.isfinite, numbers(value))), (text, value)


@pytest.mark.parametrize("text", ["nan", "inf", "1e400"])
def test_what_is_not_finite_is_named(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a number that can be used") as caught:
        VERBS["serve"].make_context("serve", ["--ttl", text, "x"])
    assert "--ttl" in caught.value.format_message()
