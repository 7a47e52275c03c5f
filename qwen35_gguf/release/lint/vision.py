"""Whether a vision encoder (mmproj) is complete, and belongs to the text model beside it.

Source: llama.cpp tools/mtmd/clip.cpp (the projector qwen3vl_merger).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qwen35_gguf.architecture import VisionEncoder
from qwen35_gguf.convert.tensor_map import expected_shapes
from qwen35_gguf.errors import ModelError, VisionError
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.release.lint.diagnostic import Diagnostic, Severity, Subject, subject
from qwen35_gguf.release.lint.tensors import AGAIN
from qwen35_gguf.runtime.media.vision_encoder import PROJECTOR, check_mmproj

BLOCK = re.compile(r"v\.blk\.(\d+)\..+")


def matches(model: Subject) -> Iterator[Diagnostic]:
    """Check the vision encoders beside a text model: one of them must fit, or the one that is named."""
    problems = []
    for layout in model.vision_encoders:
        try:
            check_mmproj(layout.path, model.number("{arch}.embedding_length"))
        except VisionError as error:
            problems.append((layout, str(error).removeprefix(f"{layout.path}: ")))
    severity: Severity = "error" if model.named or len(problems) == len(model.vision_encoders) else "note"
    for layout, problem in problems:
        yield Diagnostic(severity, "mmproj", layout.path.name, problem, "put the right mmproj beside the model")
    for layout in model.vision_encoders:
        if not any(layout is wrong for wrong, _ in problems):
            yield from complete(subject((layout,)))


def complete(encoder: Subject) -> Iterator[Diagnostic]:
    """Check that all blocks and the projector exist, with the shapes that the metadata give."""
    path = encoder.path.name
    if encoder.get("clip.projector_type") != PROJECTOR:
        what = f"is {encoder.get('clip.projector_type')!r}, where Qwen3.5 needs {PROJECTOR!r}"
        yield Diagnostic("error", "mmproj", f"{path}: clip.projector_type", what, AGAIN)
    if encoder.get("clip.has_vision_encoder") is not True:
        yield Diagnostic("error", "mmproj", f"{path}: clip.has_vision_encoder", "is not true", AGAIN)
    for key in ("image_mean", "image_std"):
        value = encoder.get(f"clip.vision.{key}")
        if not isinstance(value, list) or len(value) != 3:
            yield Diagnostic("error", "mmproj", f"{path}: clip.vision.{key}", f"is {value}, not three numbers", AGAIN)
    try:
        model = VisionEncoder.from_gguf(encoder.shards[0].metadata, path)
    except ModelError as error:
        yield Diagnostic("error", "mmproj", path, str(error).removeprefix(f"{path}: "), AGAIN)
        return
    expected = expected_shapes(model)
    missing = [name for name in expected if name not in encoder.tensors]
    if missing:
        what = f"is missing, and {len(missing) - 1} more" if len(missing) > 1 else "is missing"
        yield Diagnostic("error", "mmproj", f"{path}: {missing[0]}", what, AGAIN)
    for name, shape in expected.items():
        found = encoder.shape(name)
        if found and found != shape:
            what = f"has shape {list(found)}, where the metadata give {list(shape)}"
            yield Diagnostic("error", "mmproj", f"{path}: {name}", what, AGAIN)
    count = model.depth
    beyond = {int(f[1]) for name in encoder.tensors if (f := BLOCK.fullmatch(name)) and int(f[1]) >= count}
    if beyond:
        what = f"is {count}, but there are tensors up to block {max(beyond)}"
        yield Diagnostic("error", "mmproj", f"{path}: clip.vision.block_count", what, AGAIN)


def beside(layout: GgufHeader) -> list[GgufHeader]:
    """Return the headers of the vision encoders in the folder of a text model."""
    from qwen35_gguf.gguf_file.reader import read_header

    return [read_header(path) for path in sorted(layout.path.parent.glob("mmproj-*.gguf"))]
