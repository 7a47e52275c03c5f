"""Commands and options as llama.cpp, Ollama and vLLM call them, and what they are called here.

They are not accepted: the message about an unknown name says which one to type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import click

COMMANDS = {
    "bench": "tune",
    "completion": "run",
    "create": "package",
    "dump": "inspect",
    "generate": "run",
    "list": "models",
    "ls": "models",
    "perplexity": "evaluate",
    "ps": "models",
    "pull": "run",
    "push": "publish",
    "quantize": "convert",
    "rm": "models rm",
    "server": "serve",
    "show": "inspect",
    "upload": "publish",
}

# Several names here: those of several commands.
OPTIONS = {
    "--batch-size": ("--batch",),
    "--cache-type-k": ("--kv-type",),
    "--cache-type-v": ("--kv-type",),
    "--ctx-size": ("--ctx",),
    "--file": ("--text", "PROMPT"),
    "--gpu-memory-utilization": ("--memory",),
    "--keep-alive": ("--ttl",),
    "--max-model-len": ("--ctx",),
    "--max-tokens": ("--tokens",),
    "--model": ("FILE", "MODEL"),
    "--n-gpu-layers": ("--gpu-layers",),
    "--n-predict": ("--tokens",),
    "--nothink": ("--no-think",),
    "--num-ctx": ("--ctx",),
    "--num-predict": ("--tokens",),
    "--outfile": ("--out",),
    "--output-file": ("--out",),
    "--outtype": ("--quant",),
    "--prompt": ("PROMPT",),
    "--repetition-penalty": ("--repeat-penalty",),
    "--served-model-name": ("--alias",),
    "--system-prompt": ("--system",),
    "--temperature": ("--temp",),
    "-b": ("--batch",),
    "-c": ("--ctx",),
    "-ctk": ("--kv-type",),
    "-ctv": ("--kv-type",),
    "-hf": ("FILE", "MODEL"),
    "-m": ("FILE", "MODEL"),
    "-ngl": ("--gpu-layers",),
    "-np": ("--parallel",),
    "-p": ("PROMPT",),
    "-s": ("--seed",),
    "-sys": ("--system",),
    "-t": ("--threads", "--jobs"),
}


def command_advice(name: str, verbs: Iterable[str]) -> str:
    """Return what to type instead of an unknown command, as an end of a message; empty if nothing is like it."""
    if name == "help":
        return "; try `qwen35 --help`"
    likely = COMMANDS.get(name) or next(iter(difflib.get_close_matches(name, list(verbs), 1)), None)
    return f"; did you mean `qwen35 {likely}`?" if likely else ""


def advised(error: click.UsageError, args: Iterable[str], command: click.Command) -> click.UsageError:
    """Add to an error what to type instead of another program's option, if it comes of one.

    `-ngl 20` is read as `-n gl`, and `-ctk` as `-c`: what was typed is looked up first.
    """
    unknown = error.option_name if isinstance(error, click.NoSuchOption) else None
    typed = [word for word in args if word in OPTIONS and len(word) > 2 and not word.startswith("--")]
    for name in (*typed, unknown):
        if name is not None and (advice := _option_advice(name, command)):
            return click.UsageError(f"No such option '{name}'{advice}", error.ctx)
    return error


def _option_advice(name: str, command: click.Command) -> str:
    """Return the end of a message; empty if there is none."""
    options = {spelling for one in command.params if isinstance(one, click.Option) for spelling in one.opts}
    arguments = {word for one in command.params if isinstance(one, click.Argument) for word in _words(one)}
    for known in OPTIONS.get(name, ()):
        if known in options:
            return f"; here it is {known}"
        if known in arguments:
            return f"; here it is the argument {known}, without an option"
    return ""


def _words(argument: click.Argument) -> set[str]:
    """Return the names by which the help shows an argument."""
    return {(argument.metavar or argument.name or "").upper().strip("[].")}
