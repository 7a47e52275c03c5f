"""Messages of the library name its arguments; a command names its options, as they are typed."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

import click

TYPED = f"{__name__}.typed"  # the arguments of a command line, in the context's `meta`

# Arguments of the library, and the parameter of a command that sets them, where the two differ.
FIELDS = {
    "n_ctx": "ctx",
    "n_threads": "threads",
    "n_gpu_layers": "gpu_layers",
    "n_batch": "batch",
    "n_seq": "parallel",
    "max_tokens": "tokens",
    "thinking": "think",
    "response_format": "schema",
    "mtp": "no_mtp",
    "vision": "no_vision",
    "profile": "no_profile",
    "mmproj_type": "mmproj_types",
}


# Not a part of a path, of a quoted text or of a longer name.
_BEFORE, _AFTER = r"(?<![\w./'\"-])", r"(?![\w/'\"=-]|\.\w)"


def as_typed(message: str, ctx: click.Context | None) -> str:
    """Name options in a message instead of arguments: `--ctx` for `n_ctx`, `--allow-private` for `allow_private=True`.

    A name that is an ordinary word, such as `draft`, counts at the beginning (`draft: ...`) and with a value
    (`draft=9`) only.
    """
    if ctx is None:
        return message
    args = ctx.meta.get(TYPED, ())
    for name, option in _options(ctx):
        spelling, dashed = typed_spelling(option, args), f"--{name.replace('_', '-')}"
        with_value = functools.partial(_with_value, option, spelling)
        message = re.sub(rf"{_BEFORE}{name}=(\w+)", with_value, message)
        if spelling.startswith("--no-"):  # the opposite
            continue
        bare = rf"{_BEFORE}{name}{_AFTER}" if "_" in name else rf"^{name}(?=: )"
        message = re.sub(bare, spelling, message)
        if dashed not in option.opts:  # the option of another command, for the same purpose
            message = re.sub(rf"{dashed}(?![\w-])", spelling, message)
    return message


def typed_spelling(option: click.Option, args: Sequence[str]) -> str:
    """Return the spelling of an option that a command line has, or its long one."""
    spellings = [*option.opts, *option.secondary_opts]
    for word in args:
        for spelling in spellings:
            short = len(spelling) == 2 and word.startswith(spelling)
            if word == spelling or word.startswith(f"{spelling}=") or short:
                return spelling
    return next((one for one in option.opts if one.startswith("--")), option.opts[0])


def _options(ctx: click.Context) -> Iterator[tuple[str, click.Option]]:
    """Yield the names that stand for options of a command."""
    declared = {one.name: one for one in ctx.command.params if isinstance(one, click.Option) and one.name}
    for name, parameter in FIELDS.items():
        if parameter in declared and name not in declared:
            yield name, declared[parameter]
    yield from declared.items()


def _with_value(option: click.Option, spelling: str, found: re.Match[str]) -> str:
    """Write an argument with a value as an option: a switch, or an option and its value."""
    value = found[1]
    if value not in ("True", "False") or not option.is_flag:
        return f"{spelling} {value}"
    positive = next((one for one in option.opts if one.startswith("--")), spelling)
    if (value == "True") != positive.startswith("--no-"):
        return positive
    return option.secondary_opts[0] if option.secondary_opts else f"no {positive}"
