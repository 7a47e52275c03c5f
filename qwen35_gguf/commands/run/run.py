"""Answer a prompt with a GGUF file."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from qwen35_gguf.commands import given, output
from qwen35_gguf.commands.errors import INTERRUPTED
from qwen35_gguf.commands.first_contact import completion
from qwen35_gguf.commands.first_contact.choose_model import ask_prompt, is_terminal
from qwen35_gguf.commands.given_texts import read_prompt, read_rules
from qwen35_gguf.commands.hub_argument import at_hand
from qwen35_gguf.commands.media_sources import check_media
from qwen35_gguf.commands.options import PATH, load, model_options, note_without_effect, read_schema
from qwen35_gguf.commands.terminal import PromptProgress, show
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.runtime.chat.openai_types import Timings
from qwen35_gguf.runtime.model import Qwen35
from qwen35_gguf.runtime.options import GenerateOptions, LoadOptions


@click.command("run", cls=Verb)
@click.argument("file", type=PATH, required=False, shell_complete=completion.models)
@click.argument("prompt", required=False)
@click.option("--image", "images", multiple=True, help="Path or URL of an image; may be repeated.")
@click.option("--video", "videos", multiple=True, help="Path or URL of a video; may be repeated.")
@click.option("--system", help="System message.")
@click.option("--json-schema", "schema", type=PATH, help="Answer with JSON that this schema allows.")
@click.option("--grammar", type=PATH, help="Answer with what this GBNF grammar allows.")
@click.option("--stop", multiple=True, help="End before this text; may be repeated.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the chat template.")
@model_options
def command(
    prompt: str | None,
    images: tuple[str, ...],
    videos: tuple[str, ...],
    system: str | None,
    schema: Path | None,
    grammar: Path | None,
    stop: tuple[str, ...],
    raw: bool,
    loading: LoadOptions,
    generation: GenerateOptions,
) -> None:
    """Answer PROMPT (- reads it from stdin) with the GGUF FILE, or with USER/NAME:QUANT of the Hub.

    Without FILE the models of this machine are listed, or the sizes that fit its memory.

    The answer goes to stdout; reasoning and figures go to stderr.
    """
    if raw and (images or videos or system or schema):
        raise click.UsageError("--raw takes no --image, --video, --system or --json-schema")
    ctx = click.get_current_context()
    if prompt is None and not is_terminal():
        raise click.UsageError("Missing argument 'PROMPT'; - reads it from stdin", ctx)
    note_without_effect(ctx)
    if raw:
        given.refuse(
            ctx, ("think", "thinking_budget", "template_options", "mmproj"), "with --raw, which adds nothing to PROMPT"
        )
    if schema is not None:
        given.refuse(ctx, ["grammar"], "with --json-schema")
    if not videos:
        given.refuse(ctx, ["fps"], "without --video")
    if not (images or videos):
        given.refuse(ctx, ("max_pixels", "allow_private"), "without --image or --video")
    loading = at_hand(loading, vision=bool(images or videos))
    check_media(images, videos, loading.path, loading.mmproj)
    wanted = replace(
        generation,
        stop=stop,
        grammar=None if grammar is None else read_rules(grammar, "a GBNF grammar"),
        response_format=None if schema is None else read_schema(schema),
    )
    text = read_prompt() if prompt == "-" else ask_prompt() if prompt is None else prompt
    with load(loading) as model:
        if raw:
            answer, timings = _continue(model, text, wanted)
        else:
            messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
            messages.append({"role": "user", "content": content(text, images, videos)})
            message, timings = show(model.chat(messages, options=wanted, stream=True, on_progress=PromptProgress()))
            answer = message.to_dict()
    if timings is None:
        click.echo("Interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    output.emit(answer | {"timings": asdict(timings)})
    output.note(str(timings))


def content(text: str, images: tuple[str, ...], videos: tuple[str, ...]) -> str | list[dict[str, Any]]:
    """Put images and videos before a text, as the content of a message."""
    if not images and not videos:
        return text
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    parts += [{"type": "video_url", "video_url": {"url": video}} for video in videos]
    return [*parts, {"type": "text", "text": text}]


def _continue(model: Qwen35, prompt: str, options: GenerateOptions) -> tuple[dict[str, Any], Timings | None]:
    raw = replace(options, thinking=None, thinking_budget=None)  # nothing is taken as reasoning
    result = model.generate(
        prompt, raw, on_text=lambda text: output.echo(text, newline=False), on_progress=PromptProgress()
    )
    output.echo()
    return {"text": result.text, "finish_reason": result.finish_reason}, result.timings
