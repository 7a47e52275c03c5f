"""The options that `qwen35 run` and `qwen35 chat` share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from qwen35_gguf.commands.parameter_types import ENDPOINTS, LAYERS
from qwen35_gguf.errors import GrammarError
from qwen35_gguf.runtime.context_spec import KV_TYPES
from qwen35_gguf.runtime.engine.draft_depth import Depth
from qwen35_gguf.runtime.llama.devices import Layers
from qwen35_gguf.runtime.llama.install import STOCK_NOTE, installed_runtime
from qwen35_gguf.runtime.media.image import MediaLimits
from qwen35_gguf.runtime.media.video import VideoLimits
from qwen35_gguf.runtime.model import Qwen35

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


LOADING = [
    click.option("--ctx", type=click.IntRange(min=256), help="Tokens of context; by default 16,384 or what is native."),
    click.option("--threads", type=click.IntRange(min=1), help="By default one for each physical core."),
    click.option(
        "--gpu-layers", type=LAYERS, help="Layers on other devices; -1 for all; by default what a plan finds."
    ),
    click.option("--device", "devices", multiple=True, help="A GPU to use, or cpu for none; may be repeated."),
    click.option("--rpc", type=ENDPOINTS, default="", help="Workers to use as well: host:port, separated by commas."),
    click.option("--kv-type", type=click.Choice(list(KV_TYPES)), help="By default f16."),
    click.option("--draft", help="Tokens that the MTP head drafts: auto, the default, or 0 to 4."),
    click.option("--no-profile", is_flag=True, help="Do not use what `qwen35 tune` found."),
    click.option("--mmproj", type=PATH, help="Vision tower; by default mmproj-*.gguf beside FILE."),
    click.option("--state-dir", type=PATH, help="Keep states of long prompts here between runs."),
    click.option("--max-pixels", type=click.IntRange(min=65536), help="Reduce larger pictures to so many pixels."),
    click.option("--fps", type=click.FloatRange(min=0.01), help="Frames of a video to look at, for each second."),
    click.option("--allow-private", is_flag=True, help="Load media from private addresses and file:// URLs, too."),
]

SAMPLING = [
    click.option("--temp", "temperature", type=float, help="0 takes the likeliest; by default what the file says."),
    click.option("--top-p", type=float),
    click.option("--top-k", type=int),
    click.option("--min-p", type=float),
    click.option("--presence-penalty", type=float),
    click.option("--repeat-penalty", type=float),
    click.option("--seed", type=click.IntRange(min=0), help="By default a new one each time."),
]


def options(*groups: list[Callable[[F], F]]) -> Callable[[F], F]:
    """Decorate a command with groups of options."""

    def decorate(function: F) -> F:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate


def depth(text: str) -> Depth:
    """Read `--draft`; what is no number is left to `Qwen35` to refuse."""
    return int(text) if text.isdecimal() else text  # type: ignore[return-value]


def load(
    file: Path,
    *,
    ctx: int | None,
    threads: int | None,
    gpu_layers: Layers | None,
    devices: tuple[str, ...],
    rpc: tuple[str, ...],
    kv_type: str | None,
    draft: str | None,
    no_profile: bool,
    mmproj: Path | None,
    state_dir: Path | None,
    max_pixels: int | None,
    fps: float | None,
    allow_private: bool,
) -> Qwen35:
    """Load a model as the options say, and say what was decided: a profile, or layers on other devices.

    On a stock llama-cpp-python a note is printed. Errors as of `Qwen35`.
    """
    runtime = installed_runtime()
    if runtime and not runtime.patches:
        click.echo(STOCK_NOTE, err=True)
    usual = MediaLimits()
    model = Qwen35(
        file,
        n_ctx=ctx,
        n_threads=threads,
        n_gpu_layers=gpu_layers,
        devices=devices,
        rpc=rpc,
        kv_type=kv_type,
        draft=None if draft is None else depth(draft),
        profile=not no_profile,
        mmproj=mmproj,
        state_dir=state_dir,
        media_limits=MediaLimits(allow_private=allow_private, max_pixels=max_pixels or usual.max_pixels),
        video_limits=VideoLimits(fps=fps) if fps else None,
    )
    if model.tuned:
        click.echo(f"{model.tuned} (--no-profile: not)", err=True)
    if model.offload.devices:
        click.echo(str(model.offload), err=True)
    return model


def read_schema(path: Path) -> dict[str, Any]:
    """Read a JSON schema and wrap it as a `response_format`.

    Raises:
        GrammarError: the file cannot be read, or is not a JSON object.

    """
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GrammarError(f"{path}: {error.strerror or error}; name a file with a JSON schema") from None
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"{path}: is not JSON ({error})") from None
    if not isinstance(schema, dict):
        raise GrammarError(f"{path}: is not a JSON schema; give an object")
    return {"type": "json_schema", "json_schema": {"schema": schema}}
