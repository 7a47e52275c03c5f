"""The parts of a model that are placed as wholes, from its header alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.runtime.planning import memory

FULL = 0.5  # part of the context that is in use, on average
DRAFTS = 1  # tokens drafted a step, on average


class Unit(NamedTuple):
    """Something that is placed as a whole: of a layer its mixer with its state, or its feed-forward part.

    Attributes:
        layer: number; the output is the one after the last.
        kind: attention, DeltaNet, feed-forward, experts, MTP or output.
        weights: bytes.
        state: bytes, of the KV cache or the recurrent state.
        moved: bytes for a token.
        movable: whether llama.cpp can place it apart from its layer.

    """

    layer: int
    kind: str
    weights: int
    state: int
    moved: int
    movable: bool


def role_of(tensor: TensorInfo) -> str:
    """Say which part of a layer a tensor belongs to: experts, feed-forward or mixer."""
    name = tensor.name.split(".")[2]
    if name.endswith("_exps"):
        return "experts"
    if name in ("ffn_gate", "ffn_up", "ffn_down"):
        return "feed-forward"
    return "mixer"  # with norms, the router and the shared expert


def units_of(
    header: GgufHeader, *, n_ctx: int, kv_type: str, sequences: int, rollback: int, mtp: bool
) -> tuple[list[Unit], int]:
    """Take a model apart, in the order of computation, and return also the bytes of the embedding."""
    shape = memory.model_shape(header, patched=memory.patched_runtime())
    layers = memory.trunk_layers(header)
    cache = memory.cells_of(n_ctx) * memory.kv_cell_bytes(shape, kv_type)
    one_state = memory.state_bytes(shape)
    weights: dict[tuple[int, str], int] = {}
    others: dict[str, int] = {}
    for tensor in header.tensors:
        layer = memory.layer_of(tensor)
        if layer is None:
            others[tensor.name] = tensor.nbytes
        elif layer < layers or mtp:
            key = layer, role_of(tensor)
            weights[key] = weights.get(key, 0) + tensor.nbytes
    drafts = DRAFTS if mtp else 0
    units = []
    for (layer, role), n_bytes in sorted(weights.items(), key=lambda item: (item[0][0], item[0][1] != "mixer")):
        state, moved, kind = 0, n_bytes, role
        if role == "experts":
            moved = n_bytes * shape.experts_used // max(1, shape.experts)
        elif role == "mixer" and layer < layers and shape.recurrent[layer]:
            kind, state = "DeltaNet", one_state * sequences * (1 + rollback)
            moved += one_state * (2 + rollback)  # one is read, one is written, and one for each token to be taken back
        elif role == "mixer":
            kind, state = "attention" if layer < layers else "MTP", cache
            moved += int(cache * FULL) // sequences
        uses = drafts if layer >= layers else 1
        units.append(Unit(layer, kind, n_bytes, state, moved * uses, role != "mixer"))
    embedding = others.pop("token_embd.weight")
    matrix = others.pop("output.weight", embedding)
    draft_rows = matrix * shape.draft_vocabulary // shape.vocabulary
    norms = sum(others.values())
    last = int(header.require_hparam("block_count"))
    units.append(Unit(last, "output", matrix + norms, 0, matrix + norms + drafts * draft_rows, False))
    return units, embedding


def overrides_of(units: Sequence[Unit], device: str) -> Iterator[tuple[str, str]]:
    """Yield the patterns for tensors that are not where their layer is."""
    names = {"experts": r"ffn_\w+_exps\.", "feed-forward": r"ffn_(gate|up|down)\."}
    for kind, tensors in names.items():
        layers = "|".join(str(unit.layer) for unit in units if unit.kind == kind)
        if layers:
            yield rf"^blk\.({layers})\.{tensors}", device


def largest_tensors(header: GgufHeader) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the bytes of the largest tensor of each layer's mixer, and of its feed-forward part."""
    layers = int(header.require_hparam("block_count"))
    mixers, feed_forwards = [0] * layers, [0] * layers
    for tensor in header.tensors:
        if (layer := memory.layer_of(tensor)) is not None:
            sizes = mixers if role_of(tensor) == "mixer" else feed_forwards
            sizes[layer] = max(sizes[layer], tensor.nbytes)
    return tuple(mixers), tuple(feed_forwards)
