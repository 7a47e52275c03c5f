"""Check the images and videos of a command line before a model is loaded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from qwen35_gguf.errors import MediaError, MissingDependencyError
from qwen35_gguf.runtime.media.vision_encoder import check_mmproj
from qwen35_gguf.runtime.model_files import find_mmproj, read_model
from qwen35_gguf.runtime.planning.memory import architecture_of

ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
PACKAGES = {"image": "PIL", "video": "av"}


def check_media(images: Sequence[str], videos: Sequence[str], model: Path, mmproj: Path | None) -> None:
    """Refuse media that cannot be shown to a model.

    Args:
        images: paths and addresses.
        videos: paths and addresses.
        model: its GGUF.
        mmproj: the vision encoder; None: the one beside the model.

    Raises:
        MediaError: a file does not exist.
        MissingDependencyError: a package that reads them is not installed.
        VisionError: there is no vision encoder, or it is of another model.
        ModelError: the file is not a model.

    """
    for kind, sources in (("image", images), ("video", videos)):
        if sources and importlib.util.find_spec(PACKAGES[kind]) is None:
            raise MissingDependencyError(f"{PACKAGES[kind]} is needed for a {kind}; install it: pip install av pillow")
        for source in sources:
            check_file(source, kind)
    if images or videos:
        width = architecture_of(read_model(model)).hidden_size
        if mmproj is None:
            find_mmproj(model, width)
        else:
            check_mmproj(mmproj, width)


def check_file(source: str, kind: str) -> None:
    """Refuse a path that is not a file; addresses are loaded later.

    Raises:
        MediaError: it is not.

    """
    if ADDRESS.match(source):
        return
    path = Path(source).expanduser()
    if not (path.is_file() or path.is_fifo()):
        reason = "is a folder" if path.is_dir() else "No such file"
        raise MediaError(f"{source}: {reason}; name the file of the {kind}")
