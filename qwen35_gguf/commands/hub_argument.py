"""A MODEL that is typed: a path that exists, or the name of a model on the Hub, USER/NAME:QUANT."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen35_gguf.commands import output
from qwen35_gguf.runtime import hub_models
from qwen35_gguf.runtime.hub_models import Fits, HeaderFiles, HubModel, found_model, hub_name
from qwen35_gguf.runtime.options import LoadOptions


def at_hand(loading: LoadOptions, *, vision: bool = True) -> LoadOptions:
    """Return options with the path of a file: a model on the Hub is downloaded.

    Args:
        loading: with what was typed as its path.
        vision: whether the vision encoder is wanted.

    Raises:
        Qwen35Error: as of `found_model` and `download_model`.

    """
    loading = hub_models.at_hand(loading, output.note, vision=vision)
    _mark_used(loading.path)
    return loading


@contextmanager
def headers(typed: Path, fits: Fits | None = None) -> Iterator[tuple[HeaderFiles, str] | None]:
    """Give files with the headers of a model on the Hub, and its name, within a block; None for a path.

    Raises:
        Qwen35Error: as of `found_model`.

    """
    name = hub_name(typed)
    if name is None:
        yield None
        return
    with found_model(name, fits) as (model, files):
        _notes(model)
        yield files, model.name


def _notes(model: HubModel) -> None:
    for line in model.note.splitlines():
        output.note(f"note: {line}")


def _mark_used(path: Path) -> None:
    """Set the time of the last access, which many file systems do not keep."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
