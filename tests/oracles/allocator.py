"""What llama.cpp itself reports that it allocates, and files of the real shapes that hold no weights."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type
from llama_cpp import mtmd_cpp

_lines: list[str] = []


@llama_cpp.llama_log_callback
def _log(level: int, text: bytes, user: Any) -> None:
    del level, user
    _lines.append(text.decode(errors="replace"))


class Real(NamedTuple):
    """Dimensions of a published model."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    linear_keys: int
    linear_values: int
    tied: bool
    experts: int = 0
    used: int = 0


SHAPES = {
    "0.8b": Real(1024, 3584, 24, 8, 2, 16, 16, True),
    "2b": Real(2048, 6144, 24, 8, 2, 16, 16, True),
    "4b": Real(2560, 9216, 32, 16, 4, 16, 32, True),
    "9b": Real(4096, 12288, 32, 16, 4, 16, 32, False),
    "27b": Real(5120, 17408, 64, 24, 4, 16, 48, False),
    "35b-a3b": Real(2048, 512, 40, 16, 2, 16, 32, False, 256, 8),
}
VOCABULARY = 248320


def sparse_model(
    path: Path,
    name: str,
    *,
    body: Type = Type.Q4_K,
    output: Type = Type.Q6_K,
    draft_rows: int = 0,
    merged: bool = False,
) -> Path:
    """Write a GGUF with the header of a real model, MTP head included, whose data is a hole in the file.

    With `draft_rows` the head predicts only that number of the first tokens; with `merged` gate and up are one tensor
    in the experts.
    """
    real = SHAPES[name]
    arch = "qwen35moe" if real.experts else "qwen35"
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {
        "block_count": real.layers + 1,
        "nextn_predict_layers": 1,
        "context_length": 262144,
        "embedding_length": real.hidden,
        "attention.head_count": real.heads,
        "attention.head_count_kv": real.kv_heads,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "rope.dimension_count": 64,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 128,
        "ssm.group_count": real.linear_keys,
        "ssm.time_step_rank": real.linear_values,
        "ssm.inner_size": 128 * real.linear_values,
        "full_attention_interval": 4,
        "vocab_size": VOCABULARY,
        "nextn_vocab_size": draft_rows,
        "feed_forward_length": real.ffn,
        "expert_count": real.experts,
        "expert_used_count": real.used,
        "expert_feed_forward_length": real.ffn,
        "expert_shared_feed_forward_length": real.ffn,
    }.items():
        if (real.experts or not key.startswith("expert")) and (draft_rows or key != "nextn_vocab_size"):
            writer.add_uint32(f"{arch}.{key}", value)
    writer.add_array(f"{arch}.rope.dimension_sections", [11, 11, 10, 0])
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32(f"{arch}.rope.freq_base", 1e7)
    writer.add_tokenizer_model("no_vocab")
    total = 0
    for tensor, dims in _tensors(real, merged):
        kind = output if tensor in ("token_embd.weight", "output.weight") else body
        if len(dims) == 1 or "conv1d" in tensor or "gate_inp" in tensor:
            kind = Type.F32
        block, size = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = math.prod(dims) // block * size
        if kind is Type.F32:
            writer.add_tensor_info(tensor, dims[::-1], np.dtype(np.float32), n_bytes)
        else:
            rows = (*dims[:0:-1], dims[0] // block * size)
            writer.add_tensor_info(tensor, rows, np.dtype(np.uint8), n_bytes, raw_dtype=kind)
        total += gguf.GGUFWriter.ggml_pad(n_bytes, 32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = writer.fout
    start = gguf.GGUFWriter.ggml_pad(file.tell(), 32)
    file.close()
    os.truncate(path, start + total)
    return path


def _tensors(real: Real, merged: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and dimensions, the fastest first."""
    width, ffn = real.hidden, real.ffn
    yield "token_embd.weight", (width, VOCABULARY)
    yield "output_norm.weight", (width,)
    if not real.tied:
        yield "output.weight", (width, VOCABULARY)
    for layer in range(real.layers + 1):
        block: dict[str, tuple[int, ...]] = {"attn_norm": (width,), "post_attention_norm": (width,)}
        if layer % 4 == 3 or layer == real.layers:
            block |= {"attn_q": (width, 512 * real.heads), "attn_output": (256 * real.heads, width)}
            block |= {"attn_k": (width, 256 * real.kv_heads), "attn_v": (width, 256 * real.kv_heads)}
            block |= {"attn_q_norm": (256,), "attn_k_norm": (256,)}
        else:
            keys, values = 128 * real.linear_keys, 128 * real.linear_values
            block |= {"attn_qkv": (width, 2 * keys + values), "attn_gate": (width, values), "ssm_norm": (128,)}
            block |= {"ssm_conv1d": (4, 2 * keys + values), "ssm_out": (values, width)}
            block |= {"ssm_alpha": (width, real.linear_values), "ssm_beta": (width, real.linear_values)}
            yield f"blk.{layer}.ssm_a", (real.linear_values,)
            yield f"blk.{layer}.ssm_dt.bias", (real.linear_values,)
        if real.experts:
            block |= {"ffn_gate_inp": (width, real.experts), "ffn_gate_inp_shexp": (width,)}
            if merged:
                block["ffn_gate_up_exps"] = (width, 2 * ffn, real.experts)
            else:
                block |= {"ffn_gate_exps": (width, ffn, real.experts), "ffn_up_exps": (width, ffn, real.experts)}
            block |= {"ffn_down_exps": (ffn, width, real.experts), "ffn_down_shexp": (ffn, width)}
            block |= {"ffn_gate_shexp": (width, ffn), "ffn_up_shexp": (width, ffn)}
        else:
            block |= {"ffn_gate": (width, ffn), "ffn_up": (width, ffn), "ffn_down": (ffn, width)}
        if layer == real.layers:
            block |= {f"nextn.{norm}": (width,) for norm in ("enorm", "hnorm", "shared_head_norm")}
            block["nextn.eh_proj"] = (2 * width, width)
        for name, dims in block.items():
            yield f"blk.{layer}.{name}.weight", dims


def _reported() -> dict[str, float]:
    """MiB by kind of buffer, from the log since it was cleared; all buffers of a kind added up."""
    text, found = "".join(_lines), dict[str, float]()
    for kind, size in re.findall(r"(model|RS|compute|output) buffer size\s*=\s*([\d.]+) MiB", text):
        found[kind] = found.get(kind, 0) + float(size)
    for size in re.findall(r"llama_kv_cache: size =\s*([\d.]+) MiB", text):
        found["KV"] = float(size)  # what would be allocated is reported only here
    return found


def reported_by_device() -> dict[str, dict[str, float]]:
    """MiB by kind of buffer and by device, CPU or the address of an RPC server, from the log since it was cleared."""
    found: dict[str, dict[str, float]] = {}
    for name, kind, size in re.findall(
        r"(\S+) (model|KV|RS|compute|output) buffer size\s*=\s*([\d.]+) MiB", "".join(_lines)
    ):
        server = re.search(r"\[(.*)\]", name)
        sizes = found.setdefault(kind, {})
        device = server[1] if server else "CPU"
        sizes[device] = sizes.get(device, 0) + float(size)
    return found


@contextmanager
def loaded(path: Path, *, weights: bool, **options: Any) -> Iterator[tuple[Any, dict[str, float]]]:
    """Load a model, its MTP head too, with its weights or as llama.cpp's own memory planning does; give MiB."""
    llama_cpp.llama_log_set(_log, None)
    _lines.clear()
    params = llama_cpp.llama_model_default_params()
    params.load_mtp, params.no_alloc, params.load_mode = True, not weights, int(weights)  # mapped, or nothing at all
    for key, value in options.items():
        setattr(params, key, value)
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, "".join(_lines[-5:])
    try:
        yield model, _reported()
    finally:
        llama_cpp.llama_model_free(model)


@contextmanager
def made(model: Any, *, main: Any = None, **options: Any) -> Iterator[tuple[Any, dict[str, float]]]:
    """Make a context, for the MTP head of the model of `main` if that is given; give MiB by kind of buffer."""
    _lines.clear()
    params = llama_cpp.llama_context_default_params()
    params.n_threads = params.n_threads_batch = 1
    for key, value in options.items():
        setattr(params, key, value)
    if main is not None:
        params.ctx_type, params.ctx_other = llama_cpp.LLAMA_CONTEXT_TYPE_MTP, main
    context = llama_cpp.llama_init_from_model(model, params)
    assert context, "".join(_lines[-5:])
    try:
        yield context, _reported()
    finally:
        llama_cpp.llama_free(context)


def vision_buffer(model: Any, mmproj: Path) -> tuple[int, float, float]:
    """Patches along a side of the image that mtmd tries, MiB of the encoder's weights, MiB of its activations."""
    mtmd_cpp.mtmd_log_set(_log, None)
    _lines.clear()
    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu, params.n_threads, params.warmup = False, 1, True
    context = mtmd_cpp.mtmd_init_from_file(str(mmproj).encode(), model, params)
    assert context, "".join(_lines[-5:])
    mtmd_cpp.mtmd_free(context)
    text = "".join(_lines)
    sides = re.findall(r"warmup with image size = (\d+)", text)
    weights, patch = re.findall(r"model size:\s+([\d.]+) MiB", text), re.findall(r"patch_size:\s+(\d+)", text)
    return int(sides[-1]) // int(patch[0]), float(weights[0]), _reported()["compute"]


def log() -> str:
    """What llama.cpp logged since a model was loaded or a context was made."""
    return "".join(_lines)
