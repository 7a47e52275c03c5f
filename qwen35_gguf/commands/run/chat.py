"""Talk with a GGUF file."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import click

from qwen35_gguf.commands import given, output
from qwen35_gguf.commands.first_contact import completion
from qwen35_gguf.commands.given_texts import read_line
from qwen35_gguf.commands.hub_argument import at_hand
from qwen35_gguf.commands.media_sources import check_file
from qwen35_gguf.commands.options import NO_FILE, PATH, load, loading_names, model_options, note_without_effect
from qwen35_gguf.commands.run.run import content
from qwen35_gguf.commands.terminal import PromptProgress, show
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.errors import Qwen35Error, UnitError
from qwen35_gguf.runtime.chat.openai_types import ChatCompletionChunk
from qwen35_gguf.runtime.options import GenerateOptions, LoadOptions
from qwen35_gguf.server.client.remote_model import RemoteModel
from qwen35_gguf.units import parse_length

HELP = """\
/image FILE    send an image (path or URL) with the next message
/video FILE    send a video with the next message
/think         switch thinking on or off; /think 500 ends it after 500 tokens
/system TEXT   set the system message and begin again
/history       print the conversation
/reset         begin again
/quit          leave (or Ctrl-D)
A line that ends with \\ continues in the next one. Ctrl-C stops an answer."""


Ask = Callable[[list[Any], GenerateOptions], Iterable[ChatCompletionChunk]]


@dataclass
class _Conversation:
    """The messages so far, and what goes with the next one."""

    system: str | None = None
    thinking: bool | None = None
    budget: int | None = None
    messages: list[Any] = field(default_factory=list)
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()

    def thinks(self) -> bool:
        """Tell whether the model thinks; by default it is up to its template, which the last answer shows."""
        if self.thinking is not None:
            return self.thinking
        answers = [message for message in self.messages if not isinstance(message, dict)]
        return bool(answers and answers[-1].reasoning_content)

    def reset(self) -> None:
        """Begin again, with the same system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []
        self.images = self.videos = ()


@click.command("chat", cls=Verb)
@click.argument("file", type=PATH, required=False, shell_complete=completion.models)
@click.option("--url", help="Talk with a server, as of `qwen35 serve`; FILE is then the name of its model, or none.")
@click.option("--api-key", envvar="QWEN35_API_KEY", help="Of the server; better in the environment: QWEN35_API_KEY.")
@click.option("--system", help="System message.")
@model_options
def command(
    url: str | None, api_key: str | None, system: str | None, loading: LoadOptions, generation: GenerateOptions
) -> None:
    """Talk with the GGUF FILE, or with USER/NAME:QUANT of the Hub; /help lists what can be typed."""
    ctx = click.get_current_context()
    note_without_effect(ctx)
    if generation.stop_loops is None:
        generation = replace(generation, stop_loops=True)
    conversation = _Conversation(system, generation.thinking, generation.thinking_budget)
    conversation.reset()
    if url is not None:
        given.refuse(ctx, loading_names(), "with --url")
        remote = RemoteModel(url, None if loading.path == NO_FILE else str(loading.path), api_key)
        output.note(f"{remote.name} of {url}; /help for help")
        _converse(conversation, generation, lambda messages, wanted: remote.chat(messages, wanted, PromptProgress()))
        return
    with load(at_hand(replace(loading, ahead=True))) as model:
        output.note(f"{model.name}, {model.n_ctx:,} tokens of context; /help for help")

        def ask(messages: list[Any], wanted: GenerateOptions) -> Iterable[ChatCompletionChunk]:
            return model.chat(messages, options=wanted, stream=True, on_progress=PromptProgress())

        _converse(conversation, generation, ask)


def _converse(conversation: _Conversation, generation: GenerateOptions, ask: Ask) -> None:
    """Read messages and print answers until the end of the input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (lets input() edit lines and remember them)
    while (line := _read()) is not None:
        try:
            if line.startswith("/"):
                if not _run_command(line, conversation):
                    break
            elif line.strip():
                _ask(ask, conversation, line, generation)
        except Qwen35Error as error:  # of this message; the conversation continues
            click.echo(output.shown(f"Error: {' '.join(str(error).splitlines())}", err=True), err=True)


def _read() -> str | None:
    """Read a message; None at the end of the input. Ctrl-C empties the line."""
    lines: list[str] = []
    while True:
        try:
            line = read_line("> " if not lines else ". ")
        except EOFError:
            click.echo(err=True)
            return None
        except KeyboardInterrupt:
            click.echo(err=True)
            lines = []
            continue
        lines.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            return "\n".join(lines)


def _run_command(line: str, conversation: _Conversation) -> bool:
    """Run a command; False to leave."""
    verb, _, rest = line.partition(" ")
    rest = rest.strip()
    if verb in ("/quit", "/exit", "/q"):
        return False
    if verb in ("/image", "/video"):
        if not rest:
            click.echo(f"{verb}: name a file or URL", err=True)
        else:
            check_file(_unquoted(rest), verb.removeprefix("/"))
            if verb == "/image":
                conversation.images += (_unquoted(rest),)
            else:
                conversation.videos += (_unquoted(rest),)
    elif verb == "/think":
        _think(rest, conversation)
    elif verb == "/system":
        conversation.system = rest or None
        conversation.reset()
    elif verb == "/reset":
        conversation.reset()
    elif verb == "/history":
        for message in conversation.messages:
            message = message if isinstance(message, dict) else message.to_dict()
            output.echo(f"{message['role']}: {_plain(message['content'])}")
            output.emit(message, indent=None)
    elif verb == "/help":
        click.echo(HELP)
    else:
        click.echo(f"{verb}: not a command; /help lists them", err=True)
    return True


def _unquoted(text: str) -> str:
    """Read a path as it is typed, or quoted as a terminal does when a file is dropped on it."""
    with contextlib.suppress(ValueError):
        words = shlex.split(text)
        if len(words) == 1:
            return words[0]
    return text


def _think(rest: str, conversation: _Conversation) -> None:
    if rest in ("", "on", "off"):
        conversation.thinking = not conversation.thinks() if not rest else rest == "on"
        conversation.budget = None
    elif length := _length(rest):
        conversation.thinking, conversation.budget = True, length
    else:
        click.echo("/think: give nothing, on, off or a number of tokens", err=True)
        return
    budget = f", at most {conversation.budget:,} tokens" if conversation.budget else ""
    click.echo(f"thinking {'on' if conversation.thinking else 'off'}{budget}", err=True)


def _length(text: str) -> int:
    """Read a number of tokens; 0 if it is not one."""
    try:
        return parse_length(text)
    except UnitError:
        return 0


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else f"[{part['type']}]" for part in content or ())


def _ask(ask: Ask, conversation: _Conversation, line: str, generation: GenerateOptions) -> None:
    """Send a message and print the answer; both are kept if there was an answer, or a part of one."""
    message = {"role": "user", "content": content(line, conversation.images, conversation.videos)}
    conversation.images = conversation.videos = ()
    wanted = replace(generation, thinking=conversation.thinking, thinking_budget=conversation.budget)
    answer, timings = show(ask([*conversation.messages, message], wanted))
    if answer.content or timings is not None:
        conversation.messages += [message, answer]
    output.emit(answer.to_dict() | {"timings": timings and asdict(timings)}, indent=None)
    output.note(str(timings) if timings is not None else "(stopped)")
