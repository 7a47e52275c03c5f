"""Placement units: the parts of a model that are placed as a whole, from its header alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.runtime.context_spec import MemoryRequest
from qwen35_gguf.runtime.planning.compute_buffers import cell_bytes, rounded_cells
from qwen35_gguf.runtime.planning.memory import (
    architecture_of,
    draft_vocab_size,
    layer_of,
    layer_state_bytes,
    patched_runtime,
)

CONTEXT_IN_USE = 0.5  # part of the context that is filled, on average
DRAFTS = 1  # tokens drafted in a step, on average


@dataclass(frozen=True)
class Unit:
    """A part that is placed as a whole: the mixer of a layer with its cache or state, or its feed-forward network.

    Attributes:
        layer: number; that of the output follows the last block.
        kind: attention, DeltaNet, feed-forward, experts, MTP or output.
        weights: bytes.
        state: bytes of the KV cache or the recurrent state.
        bytes_per_token: bytes that are read or written for a token.
        movable: llama.cpp can place it apart from its layer.

    """

    layer: int
    kind: str
    weights: int
    state: int
    bytes_per_token: int
    movable: bool


@dataclass(frozen=True)
class Units:
    """A model in units.

    Attributes:
        units: in the order of computation, the output last.
        embedding: bytes of the embedding, which is on the CPU.
        tied: the embedding is also the output matrix.
        output_weights: bytes of the output matrix.
        largest_weights: bytes of the largest tensor of a layer.
        largest_experts: bytes of the two largest tensors of experts in a layer.

    """

    units: tuple[Unit, ...]
    embedding: int
    tied: bool
    output_weights: int
    largest_weights: int
    largest_experts: int


def role_of(tensor: TensorInfo) -> str:
    """Return the part of a layer that a tensor belongs to: experts, feed-forward or mixer."""
    name = tensor.name.split(".")[2]
    if name.endswith("_exps"):
        return "experts"
    if name in ("ffn_gate", "ffn_up", "ffn_down"):
        return "feed-forward"
    return "mixer"  # with norms, the router and the shared expert


def units_of(header: GgufHeader, request: MemoryRequest) -> Units:
    """Split a model into units."""
    model, spec = architecture_of(header), request.context
    cache = rounded_cells(spec.n_ctx) * cell_bytes(model, spec.kv_type)
    one_state = layer_state_bytes(model)
    weights: dict[tuple[int, str], int] = {}
    others: dict[str, int] = {}
    largest, experts = 0, dict[int, list[int]]()
    for tensor in header.tensors:
        layer = layer_of(tensor)
        if layer is None:
            others[tensor.name] = tensor.nbytes
        elif layer < model.layers or request.mtp:
            key = layer, role_of(tensor)
            weights[key] = weights.get(key, 0) + tensor.nbytes
            largest = max(largest, tensor.nbytes)
            if role_of(tensor) == "experts":
                experts.setdefault(layer, []).append(tensor.nbytes)
    drafts = DRAFTS if request.mtp else 0
    units = []
    for (layer, role), n_bytes in sorted(weights.items(), key=lambda item: (item[0][0], item[0][1] != "mixer")):
        state, moved, kind = 0, n_bytes, role
        if role == "experts" and model.experts:
            moved = n_bytes * model.experts.used // model.experts.count
        elif role == "mixer" and layer < model.layers and model.recurrent[layer]:
            kind, state = "DeltaNet", one_state * spec.n_seq * (1 + spec.n_rs_seq)
            moved += one_state * (2 + spec.n_rs_seq)  # one is read, one is written, and one for each token to roll back
        elif role == "mixer":
            kind, state = "attention" if layer < model.layers else "MTP", cache
            moved += int(cache * CONTEXT_IN_USE) // spec.n_seq
        uses = drafts if layer >= model.layers else 1
        units.append(Unit(layer, kind, n_bytes, state, moved * uses, role != "mixer"))
    embedding = others.pop("token_embd.weight")
    matrix = others.pop("output.weight", embedding)
    draft_rows = draft_vocab_size(header, patched=patched_runtime()) or model.vocab_size
    norms = sum(others.values())
    moved = matrix + norms + drafts * (matrix * draft_rows // model.vocab_size)
    units.append(Unit(model.blocks, "output", matrix + norms, 0, moved, False))
    pair = max((sum(sorted(sizes)[-2:]) for sizes in experts.values()), default=0)
    return Units(tuple(units), embedding, model.tied, matrix, largest, pair)


def overrides_of(units: Sequence[Unit], device: str) -> Iterator[tuple[str, str]]:
    """Yield the patterns for tensors that are not on the device of their layer."""
    names = {"experts": r"ffn_\w+_exps\.", "feed-forward": r"ffn_(gate|up|down)\."}
    for kind, tensors in names.items():
        layers = "|".join(str(unit.layer) for unit in units if unit.kind == kind)
        if layers:
            yield rf"^blk\.({layers})\.{tensors}", device
