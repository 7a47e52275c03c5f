"""The options that `qwen35 run` and `qwen35 chat` share, and what they become: `LoadOptions` and `GenerateOptions`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from qwen35_gguf.commands import given, output
from qwen35_gguf.commands.first_contact.choose_model import choose_model
from qwen35_gguf.commands.given_texts import read_rules
from qwen35_gguf.commands.parameter_types import ADAPTER, ENDPOINTS, LAYERS, SIZE, TEMPLATE_OPTION, tokens
from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.context_spec import AUTO_KV_TYPE, CHECKPOINT_TYPES, KV_TYPES
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.sampling import LIMITS
from qwen35_gguf.runtime.llama.install import STOCK_NOTE, installed_runtime
from qwen35_gguf.runtime.media.image import MediaLimits
from qwen35_gguf.runtime.media.video import VideoLimits
from qwen35_gguf.runtime.model import Qwen35
from qwen35_gguf.runtime.options import GenerateOptions, LoadOptions

PATH = click.Path(path_type=Path)

Callback = Callable[..., None]

LOADING = [
    click.option("--ctx", type=tokens(256), help="Tokens of context, such as 32k or 1M; by default up to 16,384."),
    click.option("--threads", type=click.IntRange(min=1), help="By default one for each physical core."),
    click.option("--gpu-layers", type=LAYERS, help="Layers on other devices; -1 for all; by default as planned."),
    click.option("--device", "devices", multiple=True, help="A GPU to use, or cpu for none; may be repeated."),
    click.option("--rpc", type=ENDPOINTS, default="", help="RPC servers to use: host:port, separated by commas."),
    click.option("--kv-type", type=click.Choice([*KV_TYPES, AUTO_KV_TYPE]), help="By default f16; auto: the fastest."),
    click.option("--draft", help="Tokens that are drafted in a step: auto, the default, or 0 to 4."),
    click.option("--no-profile", is_flag=True, help="Do not use the profile of `qwen35 tune`."),
    click.option("--mtp", type=PATH, help="MTP head of a model without one; by default mtp-*.gguf beside FILE."),
    click.option("--mmproj", type=PATH, help="Vision encoder; by default mmproj-*.gguf beside FILE."),
    click.option("--lora", "adapters", type=ADAPTER, multiple=True, help="Apply a GGUF LoRA; may be repeated."),
    click.option("--state-dir", type=PATH, help="Keep states of long prompts here between runs."),
    click.option(
        "--checkpoint-type",
        type=click.Choice(CHECKPOINT_TYPES),
        default=CHECKPOINT_TYPES[0],
        help="Of recurrent states in memory: twice as many fit as f16, three times as many as q8_0.",
    ),
    click.option("--state-bytes", type=SIZE, help="What that folder may take; by default 8 GB."),
    click.option("--max-pixels", type=tokens(65536), metavar="PIXELS", help="Reduce larger images to N pixels."),
    click.option("--fps", type=click.FloatRange(min=0.01), help="Frames to sample from each second of a video."),
    click.option("--allow-private", is_flag=True, help="Load media from private addresses and file:// URLs, too."),
]

TEMPLATE = click.option(
    "--template-option",
    "template_options",
    type=TEMPLATE_OPTION,
    multiple=True,
    help="Of the file's chat template: enable_thinking=false, reasoning_effort=low and so on; may be repeated.",
)

LOOPS = click.option(
    "--stop-loops/--no-stop-loops",
    default=None,
    help="End thinking and answers that go round in circles; by default in `chat` and `serve`.",
)

GENERATION = [
    TEMPLATE,
    LOOPS,
    click.option(
        "--think/--no-think", default=None, help="Think before answering; by default as the file's template does."
    ),
    click.option("--thinking-budget", type=tokens(), help="End the thinking after N tokens."),
    click.option(
        "-n",
        "--tokens",
        type=tokens(),
        help="Generate at most N tokens; by default what the context holds.",
    ),
    click.option("--temp", "temperature", type=float, help="0 chooses the most probable token; by default the file's."),
    click.option("--top-p", type=float, help="By default the file's, as those that follow."),
    click.option("--top-k", type=int),
    click.option("--min-p", type=float),
    click.option("--presence-penalty", type=float),
    click.option("--repeat-penalty", type=float),
    click.option("--top-n-sigma", type=float, help="Keep tokens up to N standard deviations below the best."),
    click.option("--xtc-probability", type=float, help="Leave the most probable tokens out with this probability."),
    click.option("--xtc-threshold", type=float, help="Of those that have this probability; by default 0.1."),
    click.option("--dry-multiplier", type=float, help="Penalty for continuing a repetition; by default none."),
    click.option("--seed", type=click.IntRange(min=0), help="By default a new one each time."),
]


NO_FILE = Path("-")  # where a server's model is used


def loading_names() -> list[str]:
    """Return the names of the options of loading."""

    def nothing() -> None: ...

    for option in LOADING:
        option(nothing)
    return [option.name or "" for option in click.command("loading")(nothing).params]


def model_options(callback: Callback) -> Callback:
    """Add the argument FILE and the options of loading and generating to a command.

    The callback is called with `loading` (`LoadOptions`) and `generation` (`GenerateOptions`) in place of them.
    """

    @functools.wraps(callback)
    def with_objects(**values: Any) -> None:
        if values["file"] is None:
            values["file"] = NO_FILE if values.get("url") else choose_model(click.get_current_context())
        callback(loading=_loading(values), generation=_generation(values), **values)

    decorated: Callback = with_objects
    for option in reversed([*GENERATION, *LOADING]):
        decorated = option(decorated)
    return decorated


def loading_options(callback: Callback) -> Callback:
    """Add the options of loading to a command with the argument FILES; `loading` has the path of the first."""

    @functools.wraps(callback)
    def with_object(**values: Any) -> None:
        values["file"] = values["files"][0]
        given = dict(values.pop("template_options")) or None
        loops = values.pop("stop_loops") is not False
        callback(loading=replace(_loading(values), template_options=given, stop_loops=loops), **values)

    decorated: Callback = with_object
    for option in reversed([*LOADING, TEMPLATE, LOOPS]):
        decorated = option(decorated)
    return decorated


def _loading(values: dict[str, Any]) -> LoadOptions:
    """Take the options of loading out of the values of a command."""
    max_pixels, fps, draft = values.pop("max_pixels"), values.pop("fps"), values.pop("draft")
    limits = MediaLimits(allow_private=values.pop("allow_private"))
    if max_pixels is not None:
        limits = MediaLimits(allow_private=limits.allow_private, max_pixels=max_pixels)
    return LoadOptions(
        path=values.pop("file"),
        mtp=values.pop("mtp"),
        mmproj=values.pop("mmproj"),
        n_ctx=values.pop("ctx"),
        n_threads=values.pop("threads"),
        n_gpu_layers=values.pop("gpu_layers"),
        devices=values.pop("devices"),
        rpc=values.pop("rpc"),
        kv_type=values.pop("kv_type"),
        draft=None if draft is None else depth(draft),
        profile=not values.pop("no_profile"),
        adapters=values.pop("adapters"),
        state_dir=values.pop("state_dir"),
        state_bytes=values.pop("state_bytes"),
        checkpoint_type=values.pop("checkpoint_type"),
        media_limits=limits,
        video_limits=VideoLimits(fps=fps) if fps else None,
    )


def _generation(values: dict[str, Any]) -> GenerateOptions:
    """Take the options of generating out of the values of a command."""
    sampling = [name for name in LIMITS if name in values]
    variables = dict(values.pop("template_options"))
    by_variable = variables.pop("enable_thinking", None)
    think = values.pop("think")
    return GenerateOptions(
        template_options=variables or None,
        stop_loops=values.pop("stop_loops"),
        thinking=by_variable if think is None else think,
        thinking_budget=values.pop("thinking_budget"),
        max_tokens=values.pop("tokens"),
        seed=values.pop("seed"),
        **{name: values.pop(name) for name in sampling},
    )


def note_without_effect(ctx: click.Context) -> None:
    """Note options of generating that change nothing beside others."""
    if ctx.params.get("think") is False and given.is_given(ctx, "thinking_budget"):
        output.note(f"note: {given.spelling(ctx, 'thinking_budget')}: no effect with --no-think")
    sampling = [name for name in ("top_p", "top_k", "min_p", "seed") if given.is_given(ctx, name)]
    if ctx.params.get("temperature") == 0 and sampling:
        names = ", ".join(given.spelling(ctx, name) for name in sampling)
        output.note(f"note: {names}: no effect with --temp 0, which takes the most probable token")


def depth(text: str) -> Depth:
    """Read `--draft`; `LoadOptions` refuses what is not valid."""
    return int(text) if text.isdecimal() else text  # type: ignore[return-value]


def load(options: LoadOptions) -> Qwen35:
    """Load a model and print what was decided: a profile, or layers on other devices.

    On a stock llama-cpp-python a note is printed. Errors as of `Qwen35`.
    """
    runtime = installed_runtime()
    if runtime and not runtime.patches:
        output.note(STOCK_NOTE)
    model = Qwen35(options)
    if model.tuned:
        output.note(f"{model.tuned} (--no-profile: without)")
    if model.offload.devices:
        output.note(str(model.offload))
    return model


def read_schema(path: Path) -> dict[str, Any]:
    """Read a JSON schema and wrap it as a `response_format`.

    Raises:
        GrammarError: the file cannot be read, or is not a JSON object.

    """
    try:
        schema = json.loads(read_rules(path, "a JSON schema"))
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"{path}: is not JSON ({error})") from None
    if not isinstance(schema, dict):
        raise GrammarError(f"{path}: is not a JSON schema; give an object")
    return {"type": "json_schema", "json_schema": {"schema": schema}}
