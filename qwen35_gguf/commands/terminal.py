"""Print a streamed answer: the content on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from qwen35_gguf.commands import output
from qwen35_gguf.runtime.chat.openai_types import CallDelta, ChatCompletionChunk, Message, Timings, join_calls

LONG_PROMPT = 1024  # tokens to evaluate from which on progress is shown


class PromptProgress:
    """Shows the progress of a long prompt on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        """Start without output."""
        self._first: int | None = None
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """Show the progress."""
        self._first = done if self._first is None else self._first
        if total - self._first < LONG_PROMPT or not sys.stderr.isatty() or output.is_quiet():
            return
        self._shown = done < total
        text = f"\rprompt: {done:,} of {total:,} tokens" if self._shown else "\r\x1b[K"
        click.echo(text, nl=False, err=True)


def show(chunks: Iterable[ChatCompletionChunk]) -> tuple[Message, Timings | None]:
    """Print an answer as it comes: the reasoning dimmed on stderr, the content on stdout.

    Ctrl-C ends the answer: what was printed until then is returned, without timings.
    """
    shown, thought = not output.is_json(), not output.is_quiet()
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[CallDelta] = []
    timings = None
    try:
        for chunk in chunks:
            delta = chunk.choices[0].delta
            if delta.reasoning_content:
                reasoning.append(delta.reasoning_content)
                if thought:
                    click.secho(output.shown(delta.reasoning_content, err=True), nl=False, err=True, dim=True)
            if thought and (delta.content or delta.tool_calls) and reasoning and not content and not calls:
                click.echo("\n", err=True)
            if delta.content:
                content.append(delta.content)
                if shown:
                    click.echo(output.shown(delta.content), nl=False)
            calls += delta.tool_calls or []
            timings = chunk.timings
    except KeyboardInterrupt:
        timings = None
    if thought and not content and reasoning:
        click.echo(err=True)
    if shown:
        click.echo()
    return Message("".join(content), "".join(reasoning) or None, join_calls(calls) or None), timings
