"""Whether a vision tower (mmproj) is whole, and belongs to the text model beside it.

Source: llama.cpp tools/mtmd/clip.cpp (the projector qwen3vl_merger).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qwen35_gguf.architecture import VisionEncoder
from qwen35_gguf.convert.tensor_map import expected_shapes
from qwen35_gguf.errors import ModelError, VisionError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.release.lint.diagnostic import Finding, Subject, subject
from qwen35_gguf.release.lint.tensors import AGAIN
from qwen35_gguf.runtime.media.vision_encoder import PROJECTOR, check_mmproj

BLOCK = re.compile(r"v\.blk\.(\d+)\..+")


def matches(model: Subject) -> Iterator[Finding]:
    """Check the towers beside a text model: one of them has to fit, or the one that was named."""
    problems = []
    for tower in model.towers:
        try:
            check_mmproj(tower.path, model.number("{arch}.embedding_length"))
        except VisionError as error:
            problems.append((tower, str(error).removeprefix(f"{tower.path}: ")))
    severity = "error" if model.chosen or len(problems) == len(model.towers) else "note"
    for tower, problem in problems:
        yield Finding(severity, "mmproj", tower.path.name, problem, "put the right mmproj beside the model")  # type: ignore[arg-type]
    for tower in model.towers:
        if not any(tower is wrong for wrong, _ in problems):
            yield from whole(subject((tower,)))


def whole(tower: Subject) -> Iterator[Finding]:
    """All blocks and the projector, of the shapes that the metadata promise."""
    path = tower.path.name
    if tower.get("clip.projector_type") != PROJECTOR:
        what = f"is {tower.get('clip.projector_type')!r}, where Qwen3.5 needs {PROJECTOR!r}"
        yield Finding("error", "mmproj", f"{path}: clip.projector_type", what, AGAIN)
    if tower.get("clip.has_vision_encoder") is not True:
        yield Finding("error", "mmproj", f"{path}: clip.has_vision_encoder", "is not true", AGAIN)
    for key in ("image_mean", "image_std"):
        value = tower.get(f"clip.vision.{key}")
        if not isinstance(value, list) or len(value) != 3:
            yield Finding("error", "mmproj", f"{path}: clip.vision.{key}", f"is {value}, not three numbers", AGAIN)
    try:
        encoder = VisionEncoder.from_gguf(tower.shards[0].metadata, path)
    except ModelError as error:
        yield Finding("error", "mmproj", path, str(error).removeprefix(f"{path}: "), AGAIN)
        return
    expected = expected_shapes(encoder)
    missing = [name for name in expected if name not in tower.tensors]
    if missing:
        what = f"is missing, and {len(missing) - 1} more" if len(missing) > 1 else "is missing"
        yield Finding("error", "mmproj", f"{path}: {missing[0]}", what, AGAIN)
    for name, shape in expected.items():
        found = tower.shape(name)
        if found and found != shape:
            what = f"has shape {list(found)}, where the metadata make it {list(shape)}"
            yield Finding("error", "mmproj", f"{path}: {name}", what, AGAIN)
    count = encoder.depth
    beyond = {int(f[1]) for name in tower.tensors if (f := BLOCK.fullmatch(name)) and int(f[1]) >= count}
    if beyond:
        what = f"is {count}, but there are tensors up to block {max(beyond)}"
        yield Finding("error", "mmproj", f"{path}: clip.vision.block_count", what, AGAIN)


def beside(layout: GgufHeader) -> list[GgufHeader]:
    """Return the headers of the towers in the folder of a text model."""
    from qwen35_gguf.gguf_file.reader import read_header

    return [read_header(path) for path in sorted(layout.path.parent.glob("mmproj-*.gguf"))]
