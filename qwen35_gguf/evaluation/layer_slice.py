"""One layer of a model alone: a GGUF that takes the residual stream as embeddings, for moments of one layer at a time.

The file has the layer, one of the other kind (llama.cpp needs both, and is stopped before it computes that), and an
embedding of a few rows that nobody reads.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from qwen35_gguf.errors import ModelError
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.gguf_file.keyvalue import ARRAY, STRING, KeyValue
from qwen35_gguf.gguf_file.reader import map_data, tensor_data
from qwen35_gguf.gguf_file.writer import GGUFStream
from qwen35_gguf.runtime.planning import memory

ROWS = 32  # of the embedding
TOKENS = [*"abcdefghijklmnopqrstuvwxyz01234", "ab"]
DROPPED = ("nextn_predict_layers", "vocab_size", "attention.recurrent_layers")


def layer_tensors(header: GgufHeader, layer: int) -> dict[str, TensorInfo]:
    """Map the names of a layer's tensors to what the file has of them."""
    prefix = f"blk.{layer}."
    return {tensor.name: tensor for tensor in header.tensors if tensor.name.startswith(prefix)}


def name_in_slice(name: str, number: int = 0) -> str:
    """Return the name of a layer's tensor in its own file."""
    return f"blk.{number}." + name.split(".", 2)[2]


def is_attention(header: GgufHeader, layer: int) -> bool:
    """Tell a layer of attention from one of a gated delta net."""
    return f"blk.{layer}.attn_q.weight" in header.shapes


def write_slice(header: GgufHeader, layer: int, out: Path) -> None:
    """Write one layer of a model.

    Args:
        header: of the model.
        layer: its number.
        out: the file, replaced if there is one.

    Raises:
        ModelError: all layers are of one kind.
        OutputError: it cannot be written.

    """
    arch = header.architecture
    attention, layers = is_attention(header, layer), memory.main_layers(header)
    other = next((n for n in range(layers) if is_attention(header, n) is not attention), None)
    if other is None:
        raise ModelError(f"{header.path}: has layers of one kind only; use another model")
    dropped = {f"{arch}.{key}" for key in DROPPED}
    entries = [e for e in header.entries if not e.key.startswith("tokenizer.") and e.key not in dropped]
    entries += [
        KeyValue.of(f"{arch}.block_count", 2, GGUFValueType.UINT32),
        KeyValue.of(f"{arch}.attention.recurrent_layers", [not attention, attention], ARRAY, GGUFValueType.BOOL),
        KeyValue.of("tokenizer.ggml.model", "gpt2", STRING),
        KeyValue.of("tokenizer.ggml.pre", str(header.value("tokenizer.ggml.pre", "qwen2")), STRING),
        KeyValue.of("tokenizer.ggml.tokens", TOKENS, ARRAY, STRING),
        KeyValue.of("tokenizer.ggml.token_type", [1] * ROWS, ARRAY, GGUFValueType.INT32),
        KeyValue.of("tokenizer.ggml.merges", ["a b"], ARRAY, STRING),
        KeyValue.of("tokenizer.ggml.eos_token_id", 0, GGUFValueType.UINT32),
    ]
    norm = next(tensor for tensor in header.tensors if tensor.name == "output_norm.weight")
    embedding = TensorInfo("token_embd.weight", (ROWS, norm.shape[-1]), GGMLQuantizationType.F32)
    kept = [(norm, norm.name)]
    for number, which in enumerate((layer, other)):
        kept += [(tensor, name_in_slice(name, number)) for name, tensor in layer_tensors(header, which).items()]
    mapped = map_data(header)
    with GGUFStream(out, [embedding, *(replace(tensor, name=name) for tensor, name in kept)], force=True) as stream:
        stream.write_header(entries)
        stream.write(np.zeros(embedding.shape, np.float32))
        for tensor, _ in kept:
            stream.write(tensor_data(header, tensor, mapped))
        stream.finish()
        stream.publish()
