"""What the Tab key completes beside options and paths: models of this machine, and quantization presets.

Errors complete nothing: a shell has no place for them.
"""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from qwen35_gguf.commands.models_folder import MODELS_FOLDER
from qwen35_gguf.errors import Qwen35Error


def models(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a model by its path, or by its name on the Hub; files of the shell where none begins so."""
    found = [CompletionItem(name) for name in _names() if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def quants(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a quantization preset, in any case."""
    from qwen35_gguf.quant.presets import PRESETS_BY_NAME

    return [CompletionItem(name) for name in PRESETS_BY_NAME if name.startswith(incomplete.upper())]


def _names() -> list[str]:
    from qwen35_gguf.hub.stored_models import in_cache, in_folder

    try:
        found = [*in_folder(Path()), *in_folder(MODELS_FOLDER), *in_cache()]
    except (Qwen35Error, OSError):
        return []
    return list(dict.fromkeys(model.name for model in found if model.kind == "model"))
