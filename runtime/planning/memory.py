"""How much memory a model needs, from its header alone.

The parts are those that llama.cpp reports when it makes a context. Only the full-attention layers have a KV cache,
which grows with the context; a delta net has a state of fixed size for each sequence, once more for each token that
can be rolled back. Weights, caches and states are exact; `compute_buffers` has the formula for the compute buffers.

Sources: llama.cpp's llama-kv-cache.cpp, llama-memory-recurrent.cpp, llama-context.cpp.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields

from qwen35_gguf import ggml_ops
from qwen35_gguf.architecture import Architecture, VisionEncoder
from qwen35_gguf.errors import ContextError, ModelError
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.runtime.context_spec import KV_TYPES, WAITING_ROWS, ContextSpec, MemoryRequest
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.planning.compute_buffers import (
    F32,
    Call,
    ComputeBuffers,
    Split,
    cell_bytes,
    compute_buffers,
    rounded_cells,
    vision_buffer,
)

LONGEST_CONTEXT = 1 << 20  # with YaRN
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ
# Measured with the 0.8B model: resident memory that is in none of llama.cpp's buffers.
VOCABULARY_BYTES = 330  # for each token: its text, the tables that find it, and the merges
CONTEXT_BYTES = 12 << 20  # for each context: the graph, the scheduler's tables and work memory
# Types that llama.cpp copies into an interleaved order for matmuls, and those that the patched one uses as stored.
REPACKED_X86 = ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4")
REPACKED_ARM = ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4")
USED_AS_STORED = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_XS")
REPACKED_ROWS = 8


@dataclass(frozen=True)
class Estimate:
    """Bytes by part.

    Attributes:
        weights: tensors that are loaded, those of the MTP head included if it is; with mmap they are pages of the file.
            Those of adapters are included.
        repacked: tensors that are copied into another order, whose pages are not needed after that; they are not in
            `weights`. With the patched runtime there are few on x86.
        kv_cache: of the full-attention layers.
        recurrent_states: of the delta nets and their convolutions.
        outputs: logits, and the hidden states that the MTP head takes.
        compute: activations of the largest call.
        mtp_kv_cache: of the MTP head's context.
        mtp_outputs: of the MTP head's context: logits, and a hidden state for each row of a call.
        mtp_rows: hidden states that wait for the MTP head, and those of one call.
        mtp_compute: of the MTP head's context.
        cached_states: copies of recurrent states in the prefix cache.
        vision_weights: the mmproj file.
        vision_compute: activations of encoding the largest image.
        bookkeeping: the vocabulary, and other memory that is in none of llama.cpp's buffers.

    """

    weights: int
    repacked: int
    kv_cache: int
    recurrent_states: int
    outputs: int
    compute: int
    mtp_kv_cache: int
    mtp_outputs: int
    mtp_rows: int
    mtp_compute: int
    cached_states: int
    vision_weights: int
    vision_compute: int
    bookkeeping: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(size for _, size in self.parts())

    def parts(self) -> Iterator[tuple[str, int]]:
        """Yield the names of the parts and their bytes."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)


# ---- the header --------------------------------------------------------------------------------------------------


def architecture_of(header: GgufHeader) -> Architecture:
    """Read the hyper-parameters of a text model.

    Raises:
        ModelError: not a text model of this family, or the header contradicts itself.

    """
    found = Architecture.from_gguf(header.metadata, header.shapes, str(header.path))
    if not found.vocab_size:
        raise ModelError(f"{header.path}: has no token_embd.weight; convert or download it again")
    return found


def vision_encoder_of(header: GgufHeader) -> VisionEncoder:
    """Read the hyper-parameters of an mmproj file.

    Raises:
        ModelError: not an mmproj file, or the header contradicts itself.

    """
    return VisionEncoder.from_gguf(header.metadata, str(header.path))


def main_layers(header: GgufHeader) -> int:
    """Count the layers of the main model, without the MTP blocks."""
    return architecture_of(header).layers


def has_mtp(header: GgufHeader) -> bool:
    """Report whether the file has an MTP head."""
    return architecture_of(header).mtp_blocks > 0


def draft_vocab_size(header: GgufHeader, *, patched: bool) -> int:
    """Count the rows of the output matrix that the MTP head uses, 0 for all; only the patched llama.cpp uses fewer."""
    return int(header.hparam("nextn_vocab_size", 0)) if patched else 0


def layer_of(tensor: TensorInfo) -> int | None:
    """Return the number of a tensor's layer, None if it belongs to none."""
    first, _, rest = tensor.name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if first == "blk" and number.isdecimal() else None


# ---- the parts ---------------------------------------------------------------------------------------------------


def kv_cache_bytes(model: Architecture, n_ctx: int, kv_type: str) -> int:
    """Return the bytes of the main model's KV cache."""
    return rounded_cells(n_ctx) * cell_bytes(model, kv_type) * (model.layers - recurrent_layers(model))


def recurrent_layers(model: Architecture) -> int:
    """Count the delta nets."""
    return sum(model.recurrent)


def layer_state_bytes(model: Architecture) -> int:
    """Return the bytes of one recurrent state of one delta net, its convolution's included."""
    return F32 * (model.state_size + model.conv_state_size)


def state_bytes(header: GgufHeader) -> int:
    """Return the bytes of one recurrent state of all layers, as a prefix cache holds it."""
    model = architecture_of(header)
    return layer_state_bytes(model) * recurrent_layers(model)


@functools.cache
def patched_runtime() -> bool:
    """Report whether the installed llama.cpp has this project's patches; one that is still to be installed has."""
    installed = installed_runtime()
    return installed is None or bool(installed.patches)


@functools.cache
def repacked_types(patched: bool) -> frozenset[str]:
    """Name the types whose tensors this processor keeps a second copy of, in another order."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    types = set(REPACKED_ARM if arm else REPACKED_X86)
    if not arm and any("avx512" in target for target in ggml_ops.targets()):
        types.add("Q2_K")
    if patched and ggml_ops.matmul_target():
        types -= set(USED_AS_STORED)
    return frozenset(types)


def is_repacked(tensor: TensorInfo, types: Collection[str]) -> bool:
    """Report whether a tensor on the CPU is copied; the embedding never is."""
    if tensor.name == "token_embd.weight" or len(tensor.shape) < 2:
        return False
    return tensor.type.name in types and tensor.shape[-2] % REPACKED_ROWS == 0


def check_spec(spec: ContextSpec) -> None:
    """Check the numbers of a context.

    Raises:
        ContextError: one is out of range, or the KV type is unknown.

    """
    if spec.kv_type not in KV_TYPES:
        raise ContextError(f"KV type {spec.kv_type!r}: is unknown; use one of {', '.join(KV_TYPES)}")
    if not 1 <= spec.n_seq <= MAX_SEQUENCES:
        raise ContextError(f"{spec.n_seq:,} sequences: llama.cpp takes 1 to {MAX_SEQUENCES}")
    for name, value, least in (("n_ctx", spec.n_ctx, 1), ("n_batch", spec.n_batch, 1), ("n_rs_seq", spec.n_rs_seq, 0)):
        if not least <= value < 1 << 31:
            raise ContextError(f"{name} {value:,}: must be at least {least} and below 2,147,483,648")
    if not 1 <= spec.n_outputs < 1 << 31:
        raise ContextError(f"n_outputs {spec.n_outputs:,}: must be at least 1 and below 2,147,483,648")


def compute_on_cpu(header: GgufHeader, request: MemoryRequest, *, patched: bool) -> ComputeBuffers:
    """Compute the buffers of a model that is on the CPU alone."""
    return compute_buffers(
        architecture_of(header),
        Call.largest(request.context),
        Split(),
        mtp=request.mtp and has_mtp(header),
        patched=patched,
        draft_vocab_size=draft_vocab_size(header, patched=patched),
    )


def estimate(
    header: GgufHeader,
    request: MemoryRequest,
    *,
    patched: bool | None = None,
    repacked: Collection[str] | None = None,
) -> Estimate:
    """Compute the memory that a model needs on the CPU.

    Args:
        header: of the text model.
        request: what must fit beside the weights; an MTP head that the file does not have takes nothing.
        patched: llama.cpp has this project's patches; None: as the one that is installed.
        repacked: types of weights that are copied; None: as on this processor.

    Raises:
        ContextError: a number is out of range, or the KV type is unknown.
        ModelError: the file is not of this family.

    """
    spec = request.context
    check_spec(spec)
    patched = patched_runtime() if patched is None else patched
    types = repacked_types(patched) if repacked is None else repacked
    model = architecture_of(header)
    mtp = request.mtp and model.mtp_blocks > 0
    loaded = [tensor for tensor in header.tensors if mtp or (layer_of(tensor) or 0) < model.layers]
    cell, states = cell_bytes(model, spec.kv_type), layer_state_bytes(model) * recurrent_layers(model)
    hidden, logits = F32 * model.hidden_size, F32 * model.vocab_size
    buffers = compute_on_cpu(header, request, patched=patched)
    return Estimate(
        weights=request.beside + sum(t.nbytes for t in loaded if not is_repacked(t, types)),
        repacked=sum(tensor.nbytes for tensor in loaded if is_repacked(tensor, types)),
        kv_cache=kv_cache_bytes(model, spec.n_ctx, spec.kv_type),
        recurrent_states=states * spec.n_seq * (1 + spec.n_rs_seq),
        outputs=logits * max(spec.n_outputs, spec.n_seq) + (hidden * min(spec.cells, spec.n_batch) if mtp else 0),
        compute=buffers.main[-1],
        mtp_kv_cache=rounded_cells(spec.n_ctx) * cell * model.mtp_blocks if mtp else 0,
        mtp_outputs=logits * spec.n_seq + hidden * min(spec.cells, spec.n_batch) if mtp else 0,
        mtp_rows=hidden * (WAITING_ROWS * spec.n_seq + spec.n_batch) if mtp else 0,
        mtp_compute=buffers.mtp[-1],
        cached_states=states * request.cached_states,
        vision_weights=sum(tensor.nbytes for tensor in request.mmproj.tensors) if request.mmproj else 0,
        vision_compute=vision_compute(request.mmproj, request.image_pixels) if request.mmproj else 0,
        bookkeeping=VOCABULARY_BYTES * model.vocab_size + CONTEXT_BYTES * (1 + mtp),
    )


def vision_compute(mmproj: GgufHeader, pixels: int) -> int:
    """Return the bytes that encoding a square image takes."""
    encoder = vision_encoder_of(mmproj)
    side = math.isqrt(max(pixels, 1)) // encoder.patch_size
    side = max(encoder.spatial_merge_size, side // encoder.spatial_merge_size * encoder.spatial_merge_size)
    return vision_buffer(encoder, side, side)
