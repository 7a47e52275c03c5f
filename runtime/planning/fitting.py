"""What fits into memory: the longest context, the check before loading, and what is named when it does not fit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

from gguf import GGMLQuantizationType

from qwen35_gguf.errors import MemoryLimitError, Qwen35Error
from qwen35_gguf.gguf_file.header import GgufHeader, TensorInfo
from qwen35_gguf.quant import presets, tensor_types
from qwen35_gguf.runtime.context_spec import IMAGE_PIXELS, ContextSpec, MemoryRequest
from qwen35_gguf.runtime.engine.forest.live_sequence import CACHED_STATES, MOST_STATES
from qwen35_gguf.runtime.llama.devices import CPU, Offload
from qwen35_gguf.runtime.llama.memory_breakdown import PlannedModel
from qwen35_gguf.runtime.planning.available_memory import available_bytes
from qwen35_gguf.runtime.planning.compute_buffers import CELLS, ComputeBuffers, rounded_cells
from qwen35_gguf.runtime.planning.memory import (
    LONGEST_CONTEXT,
    Estimate,
    architecture_of,
    estimate,
    has_mtp,
    state_bytes,
    vision_compute,
)
from qwen35_gguf.units import format_size

USEFUL_CONTEXT, SHORTEST_CONTEXT = 4096, 512  # what a smaller quant should allow; what is worth naming at all
# What is named when nothing else helps, the best first; those below need an importance matrix.
SMALLER_QUANTS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K", "IQ2_XXS")
SMALLER_KV_TYPES = {"f32": "f16", "f16": "q8_0", "bf16": "q8_0"}
VISION_WORK = 104 << 20  # on a GPU, beside weights and activations; measured on an H100
TOLERANCE = 0.05  # of the formula; nearer to the limit llama.cpp is asked

Longest = Callable[[GgufHeader, MemoryRequest, int], int]  # the longest context of a file up to a limit


def with_n_ctx(request: MemoryRequest, n_ctx: int) -> MemoryRequest:
    """Return the request with another context length."""
    return replace(request, context=replace(request.context, n_ctx=n_ctx))


def largest_context(header: GgufHeader, request: MemoryRequest, budget: int, limit: int = LONGEST_CONTEXT) -> int:
    """Find the largest context, a multiple of 256 cells up to `limit`, that fits into `budget` bytes; 0 for none."""

    def fits(steps: int) -> bool:
        return estimate(header, with_n_ctx(request, steps * CELLS)).total <= budget

    return most_steps(fits, max(1, limit // CELLS)) * CELLS


def most_steps(fits: Callable[[int], bool], limit: int) -> int:
    """Find the largest number up to `limit` that fits, if all below it do; 0 if 1 does not."""
    if fits(limit):
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def planned_model(header: GgufHeader, request: MemoryRequest, offload: Offload) -> PlannedModel:
    """Load a model without memory for its weights, to ask llama.cpp for its compute buffers.

    Raises:
        MissingDependencyError: llama-cpp-python is not installed.
        ModelError: llama.cpp refuses the file.

    """
    return PlannedModel(
        header.path,
        architecture=header.architecture,
        vocab_size=architecture_of(header).vocab_size,
        offload=offload,
        mtp=request.mtp and has_mtp(header),
    )


def planned_buffers(model: PlannedModel, spec: ContextSpec, offload: Offload) -> ComputeBuffers:
    """Ask llama.cpp for the compute buffers of a context: for each device of `offload`, the CPU last.

    On the CPU alone the buffers of one sequence do not depend on the tokens that can be rolled back, whose states
    llama.cpp would allocate for nothing.

    Raises:
        ModelError: llama.cpp refuses the context, or reports no figures.

    """
    alone = not offload.devices and spec.n_seq == 1
    found = model.measure(replace(spec, n_rs_seq=0) if alone else spec)
    names = [*(device.name for device in offload.devices), CPU]
    return ComputeBuffers(*(tuple(part.get(name, 0) for name in names) for part in (found.main, found.mtp)))


def measured(header: GgufHeader, request: MemoryRequest) -> Estimate:
    """Estimate with the compute buffers that llama.cpp plans on the CPU; raises what `planned_model` does."""
    with planned_model(header, request, Offload()) as model:
        found = planned_buffers(model, request.context, Offload())
    return replace(estimate(header, request), compute=found.main[-1], mtp_compute=found.mtp[-1])


def check_fits(header: GgufHeader, request: MemoryRequest, budget: int | None = None) -> Estimate:
    """Return the estimate if that much memory is available.

    Args:
        header: of the text model.
        request: what must fit.
        budget: bytes; None: what this machine has, and the installed llama.cpp decides where it is close.

    Raises:
        MemoryLimitError: it does not fit; the message names what would.

    """
    needed = estimate(header, request)
    limit = available_bytes() if budget is None else budget
    if budget is None and abs(needed.total - limit) <= TOLERANCE * limit:
        with contextlib.suppress(Qwen35Error):  # then the formula decides
            needed = measured(header, request)
    if needed.total <= limit:
        return needed

    def longest(file: GgufHeader, changed: MemoryRequest, most: int) -> int:
        return largest_context(file, changed, limit, most)

    advice = " or ".join(what_fits(header, request, longest))
    what = f"n_ctx {request.context.n_ctx:,} needs {format_size(needed.total)} of memory"
    raise MemoryLimitError(f"{header.path.name}: {what}, but {format_size(max(0, limit))} are available; {advice}")


def vision_bytes(mmproj: GgufHeader, image_pixels: int) -> int:
    """Return the memory that a vision encoder needs: weights, and activations of the largest image."""
    return sum(tensor.nbytes for tensor in mmproj.tensors) + vision_compute(mmproj, image_pixels)


def vision_bytes_of_gpu(mmproj: GgufHeader, image_pixels: int) -> int:
    """Return the memory that a vision encoder needs on a GPU, whose attention copies keys and values.

    On an H100 activations took 1.3 times as much as on the CPU, and cuBLAS what `VISION_WORK` states.
    """
    return sum(tensor.nbytes for tensor in mmproj.tensors) + vision_compute(mmproj, image_pixels) * 3 // 2 + VISION_WORK


def check_vision_fits(mmproj: GgufHeader, image_pixels: int = IMAGE_PIXELS) -> None:
    """Check that a vision encoder fits into the memory that is still available.

    Raises:
        MemoryLimitError: it does not.
        ModelError: not an mmproj file of this family.

    """
    if (needed := vision_bytes(mmproj, image_pixels)) > (budget := available_bytes()):
        raise MemoryLimitError(
            f"{mmproj.path.name}: images of {image_pixels:,} pixels need {format_size(needed)} of memory, but "
            f"{format_size(budget)} are available; allow fewer pixels, or a smaller n_ctx"
        )


def states_in(header: GgufHeader, n_bytes: int) -> int:
    """Count the recurrent states that a prefix cache of this size holds, rounded up."""
    return -(-n_bytes // max(1, state_bytes(header)))


def affordable_states(header: GgufHeader, request: MemoryRequest) -> int:
    """Return for how many recurrent states the prefix cache gets room: a quarter of the memory that is left, in bounds.

    Several conversations need the more of them the more there are; a state is as large as the keys and values of a few
    thousand tokens.
    """
    spare = available_bytes() - estimate(header, request).total
    return max(CACHED_STATES, min(MOST_STATES, spare // 4 // max(1, state_bytes(header))))


def what_fits(header: GgufHeader, request: MemoryRequest, longest: Longest) -> list[str]:
    """Name the nearest things that fit: less context, a smaller KV type, fewer parts, or a smaller quant."""
    n_ctx, kv_type = request.context.n_ctx, request.context.kv_type

    def fitting(file: GgufHeader, changed: MemoryRequest) -> int:
        return min(n_ctx, longest(file, changed, rounded_cells(n_ctx)))

    advice = []
    shorter = fitting(header, request)
    if shorter >= SHORTEST_CONTEXT:
        advice.append(f"n_ctx {shorter:,} fits")
    if smaller := SMALLER_KV_TYPES.get(kv_type):
        found = fitting(header, replace(request, context=replace(request.context, kv_type=smaller)))
        if found > max(shorter, SHORTEST_CONTEXT - 1):
            advice.append(f"n_ctx {found:,} with KV type {smaller}")
    if advice:
        return advice
    dropped, names = request, []
    for name, there, without in (
        ("the MTP head", request.mtp, {"mtp": False}),
        ("the vision encoder", request.mmproj is not None, {"mmproj": None}),
    ):
        if there:
            dropped = replace(dropped, **without)
            names.append(name)
            if (found := fitting(header, dropped)) >= SHORTEST_CONTEXT:
                return [f"n_ctx {found:,} fits without {' and '.join(names)}"]
    present = sum(tensor.nbytes for tensor in header.tensors)
    for name in SMALLER_QUANTS:
        file = requantized(header, name)
        size = sum(tensor.nbytes for tensor in file.tensors)
        if size < present and (found := fitting(file, dropped)) >= min(n_ctx, USEFUL_CONTEXT):
            return [f"a smaller quant fits: {name} ({format_size(size)}) with n_ctx {found:,}"]
    return ["no quant of this model fits; use a smaller model"]


def requantized(header: GgufHeader, quant: str) -> GgufHeader:
    """Return the header that a conversion with another preset gives, as `qwen35 convert` chooses the types."""
    architecture, recipe = architecture_of(header), presets.find_preset(quant)

    def retyped(tensor: TensorInfo) -> TensorInfo:
        if tensor.type is GGMLQuantizationType.F32:  # what is not quantized in one preset is in none
            return tensor
        return replace(tensor, type=tensor_types.tensor_type(recipe, tensor.name, tensor.shape, architecture))

    return replace(header, tensors=tuple(retyped(tensor) for tensor in header.tensors))
