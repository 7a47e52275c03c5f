"""Answer a prompt with a GGUF file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from qwen35_gguf.commands.errors import reports_errors
from qwen35_gguf.commands.options import LOADING, PATH, SAMPLING, load, options, read_schema
from qwen35_gguf.commands.terminal import PromptProgress, show
from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.chat.openai_types import Timings
from qwen35_gguf.runtime.model import Qwen35

INTERRUPTED = 130


@click.command("run")
@click.argument("file", type=PATH)
@click.argument("prompt")
@click.option("--image", "images", multiple=True, help="Path or URL of a picture; may be repeated.")
@click.option("--video", "videos", multiple=True, help="Path or URL of a video; may be repeated.")
@click.option("--system", help="System message.")
@click.option(
    "--think/--no-think", default=None, help="Think before answering; by default what the file's template does."
)
@click.option("--thinking-budget", type=click.IntRange(min=1), help="End the thinking after so many tokens.")
@click.option("--json-schema", "schema", type=PATH, help="Answer with JSON that this schema allows.")
@click.option("--grammar", type=PATH, help="Answer with what this GBNF grammar allows.")
@click.option(
    "-n", "--tokens", type=click.IntRange(min=1), help="Generate at most so many; by default what the context holds."
)
@click.option("--stop", multiple=True, help="End before this text; may be repeated.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the chat template.")
@options(SAMPLING, LOADING)
@reports_errors
def command(
    file: Path,
    prompt: str,
    images: tuple[str, ...],
    videos: tuple[str, ...],
    system: str | None,
    think: bool | None,
    thinking_budget: int | None,
    schema: Path | None,
    grammar: Path | None,
    tokens: int | None,
    stop: tuple[str, ...],
    raw: bool,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
    presence_penalty: float | None,
    repeat_penalty: float | None,
    seed: int | None,
    **loading: Any,
) -> None:
    """Answer PROMPT (- reads it from stdin) with the GGUF FILE.

    The answer goes to stdout; reasoning and figures go to stderr.
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    request: dict[str, Any] = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "presence_penalty": presence_penalty,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
        "stop": stop,
        "max_tokens": tokens,
        "on_progress": PromptProgress(),
    }
    if raw and (images or videos or system or schema):
        raise click.UsageError("--raw takes no --image, --video, --system or --json-schema")
    if grammar is not None:
        try:
            request["grammar"] = grammar.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise GrammarError(f"{grammar}: cannot be read ({error}); name a file with a GBNF grammar") from None
    if schema is not None:
        request["response_format"] = read_schema(schema)
    with load(file, **loading) as model:
        timings = _continue(model, text, request) if raw else None
        if not raw:
            messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": content(text, images, videos)})
            _, timings = show(
                model.chat(messages, stream=True, thinking=think, thinking_budget=thinking_budget, **request)
            )
    if timings is None:
        click.echo("Interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    click.echo(str(timings), err=True)


def content(text: str, images: tuple[str, ...], videos: tuple[str, ...]) -> str | list[dict[str, Any]]:
    """Put pictures and videos before a text, as the content of a message."""
    if not images and not videos:
        return text
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    parts += [{"type": "video_url", "video_url": {"url": video}} for video in videos]
    return [*parts, {"type": "text", "text": text}]


def _continue(model: Qwen35, prompt: str, request: dict[str, Any]) -> Timings | None:
    request["stop"] = list(request["stop"])
    result = model.generate(prompt, on_text=lambda text: click.echo(text, nl=False), **request)
    click.echo()
    return result.timings
