"""How much memory a model needs, from its header alone, and what fits into the memory there is.

The parts are those that llama.cpp reports when it makes a context. Only the full-attention layers have a KV cache,
which grows with the context; a DeltaNet layer has a state of fixed size for each sequence, once more for each token
that may be taken back. Sources: llama.cpp's llama-kv-cache.cpp, llama-memory-recurrent.cpp, llama-context.cpp;
`activations` for the compute buffers.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from gguf import GGMLQuantizationType

from qwen35_gguf import ggml_ops
from qwen35_gguf.architecture import Architecture
from qwen35_gguf.errors import ContextError, MemoryLimitError, ModelError
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.quant import presets, tensor_types
from qwen35_gguf.runtime.context_spec import Yarn
from qwen35_gguf.runtime.llama.install import installed_runtime
from qwen35_gguf.runtime.planning import activations
from qwen35_gguf.runtime.planning.allocation import row_bytes
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.units import format_size

__all__ = ["Estimate", "available_bytes", "check_fits", "estimate", "largest_context", "rope_note", "rope_scaling"]

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
F32 = 4
CELLS = 256  # llama.cpp rounds the context up to multiples of it
LEAST_CONTEXT = 512  # a smaller one is of no use
LONGEST_CONTEXT = 1 << 20  # with YaRN
MOST_SEQUENCES = 256  # LLAMA_MAX_SEQ
IMAGE_PIXELS = 4_194_304  # of the largest picture, if not told otherwise
# Measured with the 0.8B model: resident memory that is in none of llama.cpp's buffers.
VOCABULARY_BYTES = 330  # a token: its text, the tables for looking it up, and the merges
CONTEXT_BYTES = 12 << 20  # of each context: the graph, the scheduler's tables and work memory
# What llama.cpp copies into an interleaved form for products, and what the patched one takes as it is.
REPACKED_X86 = ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4")
REPACKED_ARM = ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4")
MULTIPLIED_AS_STORED = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_XS")
REPACKED_ROWS = 8
# What is advised when nothing else helps, the best first; those below need an importance matrix.
SMALLER_QUANTS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K", "IQ2_XXS")
USEFUL_CONTEXT = 4096


@dataclass(frozen=True)
class Estimate:
    """Bytes by part.

    Attributes:
        weights: the tensors that are loaded, the MTP block's included if it is; with mmap they are pages of the file.
        repacked: those that are copied into another order, whose pages are not needed after that, and are not in
            `weights`; with the patched runtime there are few on x86.
        kv_cache: of the full-attention layers.
        recurrent: states of the DeltaNet layers and their convolutions.
        outputs: logits, and the hidden states that an MTP head takes.
        compute: activations of a call.
        mtp_kv_cache, mtp_outputs, mtp_compute: the same for the context of the MTP head.
        checkpoints: copies of states that a prefix cache keeps.
        vision_weights: the mmproj.
        vision_compute: activations of encoding the largest picture.
        bookkeeping: the vocabulary and what else is in none of llama.cpp's buffers.

    """

    weights: int
    repacked: int
    kv_cache: int
    recurrent: int
    outputs: int
    compute: int
    mtp_kv_cache: int
    mtp_outputs: int
    mtp_compute: int
    checkpoints: int
    vision_weights: int
    vision_compute: int
    bookkeeping: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(size for _, size in self.parts())

    def parts(self) -> Iterator[tuple[str, int]]:
        """Yield the names of the parts and their bytes."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)


# ---- what a header says ------------------------------------------------------------------------------------------


def _count(header: GgufHeader, key: str, default: int | None = None) -> int:
    value = header.require_hparam(key) if default is None else header.hparam(key, default)
    value = max(value) if isinstance(value, list) else value  # by layer, 0 for the recurrent ones
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ModelError(f"{header.path}: {header.architecture}.{key} is {value!r}, not a count; convert it again")
    return value


def architecture_of(header: GgufHeader) -> Architecture:
    """Read the hyper-parameters of a text model.

    Raises:
        ModelError: it is not a text model of this family, or the header contradicts itself.

    """
    return Architecture.from_gguf(header.metadata, header.shapes, str(header.path))


def trunk_layers(header: GgufHeader) -> int:
    """Count the layers without the MTP blocks."""
    return architecture_of(header).layers


def has_mtp(header: GgufHeader) -> bool:
    """Whether there is an MTP head in the file."""
    return _count(header, "nextn_predict_layers", 0) > 0


def layer_of(tensor: TensorInfo) -> int | None:
    """Return the number of a tensor's layer, None if it belongs to none."""
    first, _, rest = tensor.name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if first == "blk" and number.isdecimal() else None


def _tensor(header: GgufHeader, name: str) -> TensorInfo | None:
    return next((tensor for tensor in header.tensors if tensor.name == name), None)


def model_shape(header: GgufHeader, *, patched: bool = True) -> activations.Shape:
    """Read what shapes depend on; only a patched llama.cpp lets the MTP head predict a part of the vocabulary.

    Raises:
        ModelError: it is not a text model of this family, or the header contradicts itself.

    """
    found = architecture_of(header)
    vocabulary, experts = found.vocab_size, found.experts
    if not vocabulary:
        raise ModelError(f"{header.path}: has no token_embd.weight; convert or download it again")
    return activations.Shape(
        embedding=found.hidden_size,
        feed_forward=found.intermediate_size,
        heads=found.heads,
        kv_heads=found.kv_heads,
        head_size=found.head_dim,
        keys=found.linear_key_size,
        values=found.linear_value_size,
        value_heads=found.linear_value_heads,
        state=found.state_size,
        conv_state=found.conv_state_size,
        recurrent=found.recurrent[: found.layers],
        vocabulary=vocabulary,
        draft_vocabulary=min((patched and _count(header, "nextn_vocab_size", 0)) or vocabulary, vocabulary),
        experts=experts.count if experts else 0,
        experts_used=experts.used if experts else 0,
        expert_feed_forward=experts.intermediate_size if experts else 0,
        shared_feed_forward=experts.shared_intermediate_size if experts else 0,
        merged_experts=_tensor(header, "blk.0.ffn_gate_up_exps.weight") is not None,
    )


def vision_shape(header: GgufHeader) -> activations.VisionShape:
    """Read the shapes of a vision tower.

    Raises:
        ModelError: it is not an mmproj of this family.

    """
    position, hidden = _tensor(header, "v.position_embd.weight"), _tensor(header, "mm.0.weight")
    keys = [f"clip.vision.{key}" for key in ("embedding_length", "feed_forward_length", "attention.head_count")]
    keys += ["clip.vision.block_count", "clip.vision.projection_dim", "clip.vision.patch_size"]
    values = [header.value(key) for key in keys]
    if header.architecture != "clip" or position is None or hidden is None or not all(values):
        raise ModelError(f"{header.path}: is not an mmproj of Qwen3.5; name the file that was converted with the model")
    width, feed_forward, heads, blocks, projected, patch = (int(value or 0) for value in values)
    grid = math.isqrt(position.shape[0])
    return activations.VisionShape(width, feed_forward, heads, blocks, hidden.shape[0], projected, patch, grid)


# ---- the parts ---------------------------------------------------------------------------------------------------


def kv_cell_bytes(shape: activations.Shape, kv_type: str) -> int:
    """Return the bytes of a cell in one full-attention layer: a key and a value."""
    return 2 * row_bytes(kv_type, shape.kv_heads * shape.head_size)


def state_bytes(shape: activations.Shape) -> int:
    """Return the bytes of one state of one DeltaNet layer."""
    return F32 * (shape.state + shape.conv_state)


def cells_of(n_ctx: int) -> int:
    """Round a context up as llama.cpp does."""
    return -(-n_ctx // CELLS) * CELLS


@functools.cache
def patched_runtime() -> bool:
    """Whether the installed llama.cpp has this project's patches; so has the one that is not installed yet."""
    installed = installed_runtime()
    return installed is None or bool(installed.patches)


@functools.cache
def repacked_types(patched: bool) -> frozenset[str]:
    """Name the types whose tensors this processor gets a copy of, in another order."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    types = set(REPACKED_ARM if arm else REPACKED_X86)
    if not arm and any("avx512" in target for target in ggml_ops.targets()):
        types.add("Q2_K")
    if patched and ggml_ops.product_target():
        types -= set(MULTIPLIED_AS_STORED)
    return frozenset(types)


def is_repacked(tensor: TensorInfo, types: Collection[str]) -> bool:
    """Whether a tensor that stays on the CPU is copied; the embedding never is."""
    if tensor.name == "token_embd.weight" or len(tensor.shape) < 2:
        return False
    return tensor.type.name in types and tensor.shape[-2] % REPACKED_ROWS == 0


def _checked(n_ctx: int, n_batch: int, kv_type: str, sequences: int, rollback: int, outputs: int) -> None:
    if kv_type not in KV_TYPES:
        raise ContextError(f"KV type {kv_type!r}: is unknown; take one of {', '.join(KV_TYPES)}")
    if not 1 <= sequences <= MOST_SEQUENCES:
        raise ContextError(f"{sequences:,} sequences: llama.cpp takes 1 to {MOST_SEQUENCES}")
    for name, value, least in (("n_ctx", n_ctx, 1), ("n_batch", n_batch, 1), ("rollback", rollback, 0)):
        if not least <= value < 1 << 31:
            raise ContextError(f"{name} {value:,}: has to be at least {least} and below 2,147,483,648")
    if not 1 <= outputs < 1 << 31:
        raise ContextError(f"outputs {outputs:,}: has to be at least 1")


def run_of(
    n_ctx: int, n_batch: int, kv_type: str, sequences: int, rollback: int, outputs: int, patched: bool
) -> activations.Run:
    """Derive the largest call that llama.cpp reserves memory for."""
    cells = cells_of(n_ctx)
    tokens = min(n_ctx, n_batch)
    return activations.Run(
        tokens=-(-tokens // sequences) * sequences,
        cells=cells,
        outputs=min(tokens, max(outputs, sequences)),
        sequences=sequences,
        snapshots=1 + rollback,
        kv_type=kv_type,
        patched=patched,
    )


def estimate(
    header: GgufHeader,
    *,
    n_ctx: int,
    n_batch: int = 512,
    kv_type: str = "f16",
    sequences: int = 1,
    rollback: int = 0,
    outputs: int = 1,
    mtp: bool = False,
    checkpoints: int = 0,
    mmproj: GgufHeader | None = None,
    image_pixels: int = IMAGE_PIXELS,
    patched: bool | None = None,
    repacked: Collection[str] | None = None,
) -> Estimate:
    """Compute what a model needs on the CPU.

    Args:
        header: of the text model.
        n_ctx: cells, over all sequences.
        n_batch: tokens of a call.
        kv_type: of both caches: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0.
        sequences: how many share the cells.
        rollback: how many tokens may be taken back (for drafting: the depth).
        outputs: rows with logits of a call.
        mtp: with the MTP head, if the file has one.
        checkpoints: how many states a prefix cache keeps.
        mmproj: of the vision tower, if pictures are to be seen.
        image_pixels: of the largest picture.
        patched: whether llama.cpp has this project's patches; None looks at the one that is installed.
        repacked: types of weights that are copied; None asks for the processor.

    Raises:
        ContextError: a number or the KV type makes no sense.
        ModelError: the file is not of this family.

    """
    _checked(n_ctx, n_batch, kv_type, sequences, rollback, outputs)
    patched = patched_runtime() if patched is None else patched
    shape = model_shape(header, patched=patched)
    mtp = mtp and has_mtp(header)
    types = repacked_types(patched) if repacked is None else repacked
    run = run_of(n_ctx, n_batch, kv_type, sequences, rollback, outputs, patched)
    layers = trunk_layers(header)
    loaded = [tensor for tensor in header.tensors if mtp or (layer_of(tensor) or 0) < layers]
    cache = run.cells * kv_cell_bytes(shape, kv_type)
    rows = max(outputs, sequences)
    hidden = F32 * shape.embedding
    draft = run._replace(outputs=min(run.tokens, sequences))
    return Estimate(
        weights=sum(tensor.nbytes for tensor in loaded if not is_repacked(tensor, types)),
        repacked=sum(tensor.nbytes for tensor in loaded if is_repacked(tensor, types)),
        kv_cache=cache * shape.recurrent.count(False),
        recurrent=state_bytes(shape) * shape.recurrent.count(True) * sequences * (1 + rollback),
        outputs=F32 * shape.vocabulary * rows + (hidden * min(n_ctx, n_batch) if mtp else 0),
        compute=activations.trunk_bytes(shape, run),
        mtp_kv_cache=cache * (_count(header, "block_count") - layers) if mtp else 0,
        mtp_outputs=(F32 * shape.vocabulary + hidden) * sequences if mtp else 0,
        mtp_compute=activations.mtp_bytes(shape, draft) if mtp else 0,
        checkpoints=state_bytes(shape) * shape.recurrent.count(True) * checkpoints,
        vision_weights=sum(tensor.nbytes for tensor in mmproj.tensors) if mmproj else 0,
        vision_compute=_vision_compute(mmproj, image_pixels) if mmproj else 0,
        bookkeeping=VOCABULARY_BYTES * shape.vocabulary + CONTEXT_BYTES * (1 + mtp),
    )


def _vision_compute(mmproj: GgufHeader, pixels: int) -> int:
    shape = vision_shape(mmproj)
    side = max(2, math.isqrt(max(pixels, 1)) // shape.patch // 2 * 2)  # a square; two by two patches are one token
    return activations.vision_bytes(shape, side, side)


# ---- what fits ---------------------------------------------------------------------------------------------------


def largest_context(header: GgufHeader, budget: int, *, limit: int = LONGEST_CONTEXT, **options: Any) -> int:
    """Find the most cells, a multiple of 256, that fit into `budget` bytes; 0 when nothing does.

    Args:
        header: of the text model.
        budget: bytes.
        limit: cells at most.
        options: those of `estimate` other than `n_ctx`.

    """

    def fits(steps: int) -> bool:
        return estimate(header, n_ctx=steps * CELLS, **options).total <= budget

    return most_steps(fits, max(1, limit // CELLS)) * CELLS


def most_steps(fits: Callable[[int], bool], limit: int) -> int:
    """Find the largest number up to `limit` that fits, when all below it do; 0 when 1 does not."""
    if fits(limit):
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def check_fits(header: GgufHeader, *, n_ctx: int, budget: int | None = None, **options: Any) -> Estimate:
    """Return the estimate, if that much memory is there.

    Args:
        header: of the text model.
        n_ctx: cells.
        budget: bytes; None takes what is available.
        options: those of `estimate`.

    Raises:
        MemoryLimitError: it does not fit; the message says what would.

    """
    needed = estimate(header, n_ctx=n_ctx, **options)
    budget = available_bytes() if budget is None else budget
    if needed.total <= budget:
        return needed
    advice = " or ".join(what_fits(header, functools.partial(_within, budget), n_ctx=n_ctx, **options))
    what = f"n_ctx {n_ctx:,} needs {format_size(needed.total)} of memory and {format_size(max(0, budget))} are there"
    raise MemoryLimitError(f"{header.path.name}: {what}; {advice}")


def check_vision_fits(mmproj: GgufHeader, image_pixels: int = IMAGE_PIXELS) -> None:
    """Check that a vision tower fits into the memory that is still available.

    Raises:
        MemoryLimitError: it does not.
        ModelError: it is not an mmproj of this family.

    """
    needed = sum(tensor.nbytes for tensor in mmproj.tensors) + _vision_compute(mmproj, image_pixels)
    if needed > (budget := available_bytes()):
        raise MemoryLimitError(
            f"{mmproj.path.name}: pictures of {image_pixels:,} pixels need {format_size(needed)} of memory and "
            f"{format_size(budget)} are there; allow fewer pixels, or a smaller n_ctx"
        )


def states_in(header: GgufHeader, n_bytes: int) -> int:
    """Count the recurrent states, begun ones included, that so many bytes of a prefix cache hold."""
    shape = model_shape(header)
    return -(-n_bytes // max(1, state_bytes(shape) * shape.recurrent.count(True)))


def _within(budget: int, header: GgufHeader, limit: int, options: dict[str, Any]) -> int:
    return largest_context(header, budget, limit=limit, **options)


def what_fits(
    header: GgufHeader, largest: Callable[[GgufHeader, int, dict[str, Any]], int], *, n_ctx: int, **options: Any
) -> list[str]:
    """Name the nearest things that fit: less context, a smaller KV type, fewer parts, or a smaller quant.

    Args:
        header: of what does not fit.
        largest: gives the longest context that fits, for a header, a limit, and options as those of `estimate`.
        n_ctx: cells that were asked for.
        options: those of `estimate`.

    """

    def longest(file: GgufHeader, **changes: Any) -> int:
        return min(n_ctx, largest(file, cells_of(n_ctx), options | changes))

    advice = []
    shorter = longest(header)
    if shorter >= LEAST_CONTEXT:
        advice.append(f"n_ctx {shorter:,} fits")
    smaller = {"f32": "f16", "f16": "q8_0", "bf16": "q8_0"}.get(options.get("kv_type", "f16"))
    if smaller is not None and (found := longest(header, kv_type=smaller)) > max(shorter, LEAST_CONTEXT - 1):
        advice.append(f"n_ctx {found:,} with KV type {smaller}")
    if advice:
        return advice
    dropped: dict[str, Any] = {}
    names: list[str] = []
    for part, key, value in (("the MTP head", "mtp", False), ("the vision tower", "mmproj", None)):
        if options.get(key):
            dropped[key] = value
            names.append(part)
            if (found := longest(header, **dropped)) >= LEAST_CONTEXT:
                return [f"n_ctx {found:,} fits without {' and '.join(names)}"]
    present = sum(tensor.nbytes for tensor in header.tensors)
    for name in SMALLER_QUANTS:
        file = requantized(header, name)
        size = sum(tensor.nbytes for tensor in file.tensors)
        if size < present and (found := longest(file, **dropped)) >= min(n_ctx, USEFUL_CONTEXT):
            return [f"a smaller quant fits: {name} ({format_size(size)}) with n_ctx {found:,}"]
    return ["no quant of this model fits; take a smaller model"]


def requantized(header: GgufHeader, quant: str) -> GgufHeader:
    """Return what the header would be after conversion with another mix, as `qwen35 convert` chooses the types."""
    architecture, recipe = architecture_of(header), presets.find_preset(quant)

    def retyped(tensor: TensorInfo) -> TensorInfo:
        if tensor.type is GGMLQuantizationType.F32:  # what is not quantized in one mix is in none
            return tensor
        return replace(tensor, type=tensor_types.tensor_type(recipe, tensor.name, tensor.shape, architecture))

    return replace(header, tensors=tuple(retyped(tensor) for tensor in header.tensors))


# ---- more than the native context --------------------------------------------------------------------------------


def native_context(header: GgufHeader) -> int:
    """Return the length that the model was trained for."""
    return _count(header, "rope.scaling.original_context_length", 0) or _count(header, "context_length")


def rope_scaling(header: GgufHeader, n_ctx: int) -> Yarn | None:
    """Return the scaling for a context beyond the native one: YaRN, with the least factor; None if it is not beyond.

    llama.cpp derives the rest from them: the extrapolation (`yarn_ext_factor`) is on for this type, the factor for
    the attention is 0.1 ln(factor) + 1 as in transformers, and beta_fast and beta_slow are 32 and 1. It applies to
    each of the three positions of M-RoPE alike. A file that has YaRN in its metadata needs nothing up to its length.

    Raises:
        ContextError: `n_ctx` is below 1 or above 1,048,576.

    """
    if not 1 <= n_ctx <= LONGEST_CONTEXT:
        raise ContextError(f"n_ctx {n_ctx:,}: has to be between 1 and {LONGEST_CONTEXT:,}")
    native, trained = native_context(header), _count(header, "context_length")
    if n_ctx <= max(native, trained):
        return None
    return Yarn(native / n_ctx, native)


def rope_note(header: GgufHeader, n_ctx: int, kv_type: str = "f16") -> str | None:
    """Say in one line what a context beyond the native one costs, None if it is not beyond."""
    if rope_scaling(header, n_ctx) is None:
        return None
    shape, native = model_shape(header), native_context(header)
    cell = kv_cell_bytes(shape, kv_type) * shape.recurrent.count(False)
    return (
        f"n_ctx {n_ctx:,} is {n_ctx / native:.2g} times the native {native:,}: YaRN is on for short prompts too, which "
        f"costs some accuracy, and the KV cache takes {format_size(cell * cells_of(n_ctx))} instead of at most "
        f"{format_size(cell * native)}"
    )
