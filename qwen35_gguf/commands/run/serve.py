"""Serve GGUF files over HTTP: a chat page, and the APIs of OpenAI and Anthropic."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from qwen35_gguf.commands import output
from qwen35_gguf.commands.first_contact import completion
from qwen35_gguf.commands.hub_argument import at_hand
from qwen35_gguf.commands.options import PATH, loading_options
from qwen35_gguf.commands.parameter_types import SIZE
from qwen35_gguf.commands.verb import Verb
from qwen35_gguf.errors import MissingDependencyError
from qwen35_gguf.runtime.engine.forest.state_store import make_folder
from qwen35_gguf.runtime.engine.scheduler import MAX_GAP, MAX_PARALLEL
from qwen35_gguf.runtime.llama.adapters.lora_file import check_adapter
from qwen35_gguf.runtime.llama.install import STOCK_NOTE, installed_runtime
from qwen35_gguf.runtime.media.image import MediaLimits
from qwen35_gguf.runtime.model_files import read_model
from qwen35_gguf.runtime.options import LoadOptions
from qwen35_gguf.server.lines_to_copy import KEY_NOTE, LinesToCopy, address_of, key_word

KEYS = "QWEN35_API_KEY"
NEEDED = "packages are missing to serve; install them with pip install starlette uvicorn markdown-it-py pygments"


@click.command("serve", cls=Verb)
@click.argument("files", nargs=-1, type=PATH, required=True, metavar="FILE|DIR...", shell_complete=completion.models)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--api-key",
    "keys",
    multiple=True,
    envvar=KEYS,
    help=f"A key that requests must have; may be repeated, or be in the environment as {KEYS}.",
)
@click.option("--without-key", is_flag=True, help="Listen beyond this machine although there is no key.")
@click.option("--allow-host", "hosts", multiple=True, help="A name of this machine that clients use; may be repeated.")
@click.option("--cors", "origins", multiple=True, help="Origin of web pages that may use the server; may be repeated.")
@click.option(
    "--parallel",
    type=click.IntRange(1, MAX_PARALLEL),
    default=4,
    show_default=True,
    help="Requests of a model that run side by side, each with --ctx tokens of context.",
)
@click.option(
    "--max-gap",
    type=click.FloatRange(min=0, min_open=True),
    default=MAX_GAP,
    show_default=True,
    help="Seconds that a stream may wait for the next part of another request's prompt.",
)
@click.option("--deterministic", is_flag=True, help="Let nothing that runs beside a request change it; slower.")
@click.option("--alias", "aliases", multiple=True, help="NAME or NAME=MODEL: another name of a model; * matches all.")
@click.option("--memory", type=SIZE, help="What loaded models may take in total; by default what is available.")
@click.option("--ttl", type=click.FloatRange(min=1), help="Unload a model that was idle for N seconds.")
@click.option("--queue", type=click.IntRange(min=1), default=64, show_default=True, help="Requests that may wait.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="REGEX",
    help="Remove what matches from messages, such as a time, so that prompts are known again; may be repeated.",
)
@click.option("--grace", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds for streams to end.")
@click.option("--isolate", is_flag=True, help="Requests of two keys share nothing that is known of their prompts.")
@click.option("--log-requests", is_flag=True, help="Log what requests ask and what is answered.")
@loading_options
def command(
    files: tuple[Path, ...],
    keys: tuple[str, ...],
    host: str,
    port: int,
    without_key: bool,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    parallel: int,
    max_gap: float,
    deterministic: bool,
    aliases: tuple[str, ...],
    memory: int | None,
    ttl: float | None,
    queue: int,
    ignore: tuple[str, ...],
    grace: float,
    isolate: bool,
    log_requests: bool,
    loading: LoadOptions,
) -> None:
    """Serve GGUF files, those in a folder, or USER/NAME:QUANT of the Hub, to browsers and programs.

    They find a chat page, and the APIs of OpenAI and Anthropic.

    A model is known by the name of its file. It is loaded when it is asked for, and leaves when the memory is needed
    for another.
    """
    try:
        from qwen35_gguf.server.app import create_app
        from qwen35_gguf.server.models import Models, model_files
        from qwen35_gguf.server.run import listen, server
        from qwen35_gguf.server.settings import ServerSettings
    except ImportError:
        raise MissingDependencyError(NEEDED) from None
    settings = ServerSettings(
        host=host,
        port=port,
        api_keys=_keys(keys),
        without_key=without_key,
        hosts=hosts,
        origins=origins,
        queue=queue,
        grace=grace,
        log_requests=log_requests,
        isolate=isolate,
    )
    given = loading.media_limits or MediaLimits()
    limits = replace(given, local_files=False, https_only=not given.allow_private)
    options = replace(
        loading,
        media_limits=limits,
        parallel=parallel,
        max_gap=max_gap,
        deterministic=deterministic,
        queue_limit=queue,
        ahead=True,
        ignore=ignore,  # type: ignore[arg-type]  # compiled and checked there
    )
    if loading.state_dir is not None:
        make_folder(loading.state_dir)  # an operator's mistake is none of the first request's
    local = [at_hand(replace(options, path=file)) for file in files]
    found_with = {one.path: one for one in local}
    found = model_files([one.path for one in local])
    for path in found.values():
        header = read_model(path)
        for adapter, _ in loading.adapters:
            check_adapter(adapter, header)
    models = Models(
        {name: found_with.get(path, replace(options, path=path)) for name, path in found.items()},
        aliases=dict(_alias(alias, next(iter(found))) for alias in aliases),
        memory=memory,
        ttl=ttl,
        queue=queue,
    )
    runtime = installed_runtime()
    if runtime and not runtime.patches:
        output.note(STOCK_NOTE)
    with listen(settings) as listener, _log():
        running = server(create_app(settings, models, preload=len(found) == 1), settings)
        address = address_of(host, listener.getsockname()[1])
        output.echo(f"{address}: {', '.join(found)}")
        given_in = click.get_current_context().get_parameter_source("keys")
        key = key_word(len(settings.api_keys), from_environment=given_in is ParameterSource.ENVIRONMENT)
        lines = LinesToCopy(address, next(iter(found)), key)
        output.advise("\n".join((lines.curl(), lines.python(), lines.agent())))
        if settings.api_keys and given_in is not ParameterSource.ENVIRONMENT:
            output.advise(KEY_NOTE)
        output.emit({"address": address, "models": list(found)}, indent=None)
        with contextlib.suppress(KeyboardInterrupt):  # the usual end; uvicorn raises it when all is closed
            running.run(sockets=[listener])


def _keys(given: tuple[str, ...]) -> tuple[str, ...]:
    """Split keys at spaces and commas; where one is given that has nothing, a server without a key is not meant."""
    found = tuple(key for text in given for key in re.split(r"[\s,]+", text) if key)
    if not found and (given or os.environ.get(KEYS)):
        raise click.UsageError(f"--api-key, or {KEYS}, is empty; give a key, or leave it out")
    return found


def _alias(text: str, default: str) -> tuple[str, str]:
    name, equals, target = text.partition("=")
    return name, target if equals else default


@contextlib.contextmanager
def _log() -> Iterator[None]:
    """Write what the server logs to stderr."""
    logger, handler = logging.getLogger("qwen35_gguf.server"), logging.StreamHandler()
    if output.is_quiet():
        handler.setLevel(logging.ERROR)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
