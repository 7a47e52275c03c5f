"""The file of a GGUF LoRA: its header is checked, alone and against that of a model, and that its numbers are finite.

llama.cpp aborts where a shape does not fit a matmul, so every pair of factors is compared with the model before. Rows
with NaN that are rounded to 8 bits become numbers, so that logits would not show it.

Source: llama.cpp src/llama-adapter.cpp (`llama_adapter_lora_init_impl`), src/llama-graph.cpp (`build_lora_mm`).
"""

from __future__ import annotations

import math
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf.errors import AdapterError, GgufError, Qwen35Error
from qwen35_gguf.gguf_file.finite_blocks import not_finite
from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.gguf_file.reader import map_data, read_header, tensor_data

ADAPTER = "adapter"  # general.type
LORA_A, LORA_B = ".lora_a", ".lora_b"
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
Q = GGMLQuantizationType
TYPES = (Q.F32, Q.F16, Q.BF16, Q.Q8_0)


def is_adapter(header: GgufHeader) -> bool:
    """Tell whether a file is an adapter, not a model."""
    return header.metadata.get("general.type") == ADAPTER


def check_adapter(path: Path, model: GgufHeader) -> GgufHeader:
    """Return the header of an adapter that fits a model.

    Raises:
        AdapterError: the file is missing or damaged, not a LoRA, for another model, or has NaN or infinite numbers.

    """
    if (path / "adapter_config.json").is_file():
        raise AdapterError(f"{path}: is a PEFT adapter; convert it with `qwen35 convert-adapter`")
    try:
        header = read_header(path)
    except Qwen35Error as error:
        raise AdapterError(str(error)) from None
    check_lora(header)
    if header.architecture != model.architecture:
        raise AdapterError(
            f"{path}: is for {header.architecture}, but {model.path.name} is {model.architecture}; use one for that"
        )
    _check_pairs(header, model)
    _check_finite(header)
    return header


def check_lora(header: GgufHeader) -> None:
    """Check what an adapter's file alone tells: its entries, and that every tensor is one of a pair of factors.

    Raises:
        AdapterError: it is not a LoRA that llama.cpp loads.

    """
    path = header.path
    if not is_adapter(header):
        raise AdapterError(f"{path}: is not an adapter (general.type); make one with `qwen35 convert-adapter`")
    kind = header.metadata.get("adapter.type")
    if kind != "lora":
        raise AdapterError(f"{path}: adapter.type is {kind!r}; only lora is supported")
    if "adapter.alora.invocation_tokens" in header.metadata:
        raise AdapterError(
            f"{path}: is an activated LoRA, which acts only behind its invocation tokens; use a plain one"
        )
    alpha = header.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise AdapterError(f"{path}: adapter.lora.alpha is {alpha!r}; must be a number")
    if not header.tensors:
        raise AdapterError(f"{path}: has no tensors; make it again with `qwen35 convert-adapter`")
    for tensor in header.tensors:
        name, suffix = tensor.name[: -len(LORA_A)], tensor.name[-len(LORA_A) :]
        if suffix not in (LORA_A, LORA_B):
            raise AdapterError(f"{path}: {tensor.name} is not a factor of a LoRA (lora_a, lora_b); remove it")
        if 0 in tensor.shape:
            raise AdapterError(f"{path}: {tensor.name} is empty, {list(tensor.shape)}; the file is incomplete")
        if tensor.type not in TYPES:
            raise AdapterError(f"{path}: {tensor.name} is {tensor.type.name}; must be F32, F16, BF16 or Q8_0")
        other = name + (LORA_B if suffix == LORA_A else LORA_A)
        if other not in header.shapes:
            raise AdapterError(f"{path}: {tensor.name} has no {other} beside it; the file is incomplete")


def changes_mtp_head(header: GgufHeader, layers: int) -> bool:
    """Tell whether an adapter changes blocks behind the first `layers`: the MTP head, which must be loaded for it."""
    blocks = (tensor.name.split(".")[1] for tensor in header.tensors if tensor.name.startswith("blk."))
    return any(int(block) >= layers for block in blocks if block.isdecimal())


def _check_pairs(header: GgufHeader, model: GgufHeader) -> None:
    found = header.shapes
    for name in dict.fromkeys(tensor.name[: -len(LORA_A)] for tensor in header.tensors):
        if name not in model.shapes:
            raise AdapterError(f"{header.path}: {name} is not in {model.path.name}; the adapter is for another model")
        if name == EMBEDDING and OUTPUT not in model.shapes:
            raise AdapterError(
                f"{header.path}: {name} is the embedding of {model.path.name} and its output matrix, and llama.cpp "
                "applies an adapter to one of the two only; merge it with `qwen35 convert BASE --adapter`"
            )
        if not _fits(name, found[name + LORA_A], found[name + LORA_B], model.shapes[name]):
            raise AdapterError(
                f"{header.path}: {name} has factors {list(found[name + LORA_A])} and {list(found[name + LORA_B])} for "
                f"{list(model.shapes[name])} of {model.path.name}; the adapter is for another model"
            )


def _check_finite(header: GgufHeader) -> None:
    try:
        mapped = map_data(header)
        for tensor in header.tensors:
            blocks = tensor_data(header, tensor, mapped).reshape(-1, GGML_QUANT_SIZES[tensor.type][1])
            if not_finite(blocks, tensor.type).any():
                raise AdapterError(
                    f"{header.path}: {tensor.name} has NaN or infinite numbers; its training failed, or the file is "
                    "damaged"
                )
    except GgufError as error:
        raise AdapterError(str(error)) from None


def _fits(name: str, a: tuple[int, ...], b: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Compare shapes, the row length last: A (rank, columns) and B (rows, rank), with experts in front."""
    if len(shape) < 2 or len(a) != len(shape) or len(b) != len(shape):
        return False
    if name == EMBEDDING:  # its rows are looked up in A
        return a[0] == shape[0] and b[0] == shape[1] and a[1] == b[1]
    return (*a[:-2], b[-2], a[-1]) == shape and b[:-2] == shape[:-2] and a[-2] == b[-1]
