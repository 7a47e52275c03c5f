"""An MTP head in a file of its own: `mtp-NAME.gguf`, with the embedding and the output that it needs.

`qwen35 package --mtp-files` writes such files, and so do others: llama.cpp loads them as draft models. A text model
that was converted without its head drafts with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qwen35_gguf.errors import ModelError, Qwen35Error
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.shards import read_set
from qwen35_gguf.runtime.context_spec import MemoryRequest
from qwen35_gguf.runtime.model_files import is_head_alone
from qwen35_gguf.runtime.planning.memory import estimate, layer_of

PREFIX = "mtp-"


def check_head(path: Path, model: GgufHeader) -> GgufHeader:
    """Read the header of an MTP head that drafts for a model without one.

    Raises:
        ModelError: the file is missing, damaged, no MTP head alone, or that of another model.

    """
    try:
        (header,) = read_set(path)
    except ModelError:
        raise
    except (Qwen35Error, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as an MTP head: {error}") from None
    if not is_head_alone(header):
        raise ModelError(f"{path}: is not an MTP head alone; name an mtp-*.gguf of this model")
    for what, its, wanted in (
        ("of the family", header.architecture, model.architecture),
        ("with a hidden size of", header.hparam("embedding_length", 0), model.hparam("embedding_length", 0)),
        ("with a vocabulary of", _vocabulary(header), _vocabulary(model)),
        ("for a model with as many layers as", _layers(header), _layers(model)),
    ):
        if its != wanted:
            raise ModelError(f"{path}: is an MTP head {what} {its}, not {wanted}; name the head of this model")
    return header


def _layers(header: GgufHeader) -> int:
    return int(header.hparam("block_count", 0)) - int(header.hparam("nextn_predict_layers", 0))


def _vocabulary(header: GgufHeader) -> int:
    return int(header.shapes.get("token_embd.weight", (0,))[0])


def find_head(model: GgufHeader) -> Path | None:
    """Find the MTP head in the folder of a text model without one: `mtp-*.gguf` that fits; None without one."""
    return choose_head(model, sorted(model.path.parent.glob(f"{PREFIX}*.gguf")))


def choose_head(model: GgufHeader, found: Sequence[Path]) -> Path | None:
    """Choose among MTP heads: of those that fit, the one whose name shares most with the model's."""
    fitting = []
    for path in found:
        try:
            fitting.append(check_head(path, model).path)
        except ModelError:
            continue

    def shared(path: Path) -> int:
        pairs = zip(path.stem.removeprefix(PREFIX), model.path.stem.replace("-nomtp", ""), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(path.stem))

    return max(fitting, key=shared, default=None)


def head_bytes(model: GgufHeader, head: GgufHeader, request: MemoryRequest) -> int:
    """Return the bytes that an MTP head in a file of its own adds to those of a model without one."""
    block = tuple(tensor for tensor in head.tensors if layer_of(tensor) is not None)
    whole = replace(head, path=model.path, tensors=(*model.tensors, *block))  # as if the model had the head
    added = estimate(whole, replace(request, mtp=True)).total - estimate(model, replace(request, mtp=False)).total
    return added + sum(tensor.nbytes for tensor in head.tensors if layer_of(tensor) is None)


def with_head(model: GgufHeader, head: GgufHeader | None, request: MemoryRequest) -> MemoryRequest:
    """Return a request to which an MTP head in a file of its own is added, if there is one."""
    if head is None or request.context.n_rs_seq == 0:
        return request
    return replace(request, beside=request.beside + head_bytes(model, head, request))
