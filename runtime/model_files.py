"""The files of a model: its header, the vision encoder beside it, and an identity of its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qwen35_gguf.architecture import DENSE, MOE
from qwen35_gguf.errors import ModelError, Qwen35Error, VisionError
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.gguf_file.shards import read_set
from qwen35_gguf.runtime.llama.adapters.lora_file import is_adapter
from qwen35_gguf.runtime.media.vision_encoder import check_mmproj

ARCHITECTURES = (DENSE, MOE)
# Of several vision encoders the one that is closest to the original weights.
PREFERRED = ("-BF16", "-F16", "-F32", "-Q8_0")
FIRST_BLOCK = "blk.0.attn_norm.weight"  # llama.cpp decides by it whether a file is a head alone (models/qwen35.cpp)
SAMPLES, SAMPLE_BYTES = 16, 1 << 16


def read_model(path: Path) -> GgufHeader:
    """Read the header of a text model; of shards, that of the first, with the tensors of all.

    Raises:
        ModelError: the file is missing, damaged, or not a text model of Qwen3.5, or a shard is missing.

    """
    try:
        shards = read_set(path)
        first = shards[0]
        if len(shards) > 1 and first.path.name != path.name:
            raise ModelError(f"{path}: is one shard of {len(shards)}; name the first, {first.path.name}")
        header = replace(first, path=path, tensors=tuple(tensor for shard in shards for tensor in shard.tensors))
    except ModelError:
        raise
    except Qwen35Error as error:
        raise ModelError(str(error)) from None
    if header.architecture == "clip":
        raise ModelError(f"{path}: is a vision encoder (mmproj), not a text model; name the other file beside it")
    if is_adapter(header):
        raise ModelError(f"{path}: is an adapter, not a model; name its base, and this file with --lora")
    if header.architecture not in ARCHITECTURES:
        raise ModelError(f"{path}: is a model of another family ({header.architecture}); use one of Qwen3.5")
    if is_head_alone(header):
        raise ModelError(f"{path}: is an MTP head alone; name its model, which finds the head beside it, or with --mtp")
    return header


def require_tensor(header: GgufHeader, name: str) -> TensorInfo:
    """Return a tensor that every text model has.

    Raises:
        ModelError: this one has none of that name.

    """
    found = header.tensor(name)
    if found is None:
        raise ModelError(f"{header.path}: has no {name}; use a text model")
    return found


def is_head_alone(header: GgufHeader) -> bool:
    """Report whether a file holds an MTP head without the model."""
    return bool(header.hparam("nextn_predict_layers", 0)) and FIRST_BLOCK not in header.shapes


def find_mmproj(model: Path, n_embd: int) -> Path:
    """Find the vision encoder in the folder of a text model: `mmproj-*.gguf` that fits its width.

    Of several the one whose name shares most with the model's is taken, then the most exact one.

    Raises:
        VisionError: there is none, or none fits.

    """
    return choose_mmproj(model, sorted(model.parent.glob("mmproj-*.gguf")), n_embd)


def choose_mmproj(model: Path, found: Sequence[Path], n_embd: int) -> Path:
    """Choose among vision encoders as `find_mmproj` does; the same errors."""
    fitting, reason = [], ""
    for path in found:
        try:
            check_mmproj(path, n_embd)
            fitting.append(path)
        except VisionError as error:
            reason = f" ({error})"
    if not fitting:
        raise VisionError(f"{model}: no vision encoder mmproj-*.gguf beside it fits{reason}; name one with mmproj")

    def rank(path: Path) -> tuple[int, int]:
        name = path.stem.removeprefix("mmproj-")
        shared = next((i for i, (a, b) in enumerate(zip(name, model.stem, strict=False)) if a != b), len(name))
        exact = next((i for i, ending in enumerate(PREFERRED) if name.endswith(ending)), len(PREFERRED))
        return -shared, exact

    return min(fitting, key=rank)


def model_identity(path: Path, **settings: object) -> str:
    """Hash what identifies a model file (its size, and samples of its content), and settings that belong to it."""
    size = path.stat().st_size
    digest = hashlib.sha256(json.dumps([size, sorted(settings.items())], default=str).encode())
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(max(0, (size - SAMPLE_BYTES) * i // (SAMPLES - 1)))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
