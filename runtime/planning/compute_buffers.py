"""How large llama.cpp's compute buffers are: a closed formula, for memory that is only imagined.

llama.cpp reserves one buffer per device and context for the activations of the largest call. Its size is the sum of
what is there for the whole call (the inputs) and the largest of what the operations need at one time:

* inputs (llama-graph.cpp, llm_graph_input_*): token ids, embeddings of images, four positions per token (M-RoPE), the
  attention mask (cells x tokens, F16), the cells to write, the rotations of a quantized KV cache.
* a delta net (qwen35.cpp, delta-net-base.cpp): the residual, its norm, the mixed queries, keys and values before and
  after the convolution, the gate z; where states cannot be updated in place, the states that are read and written.
* full attention: the residual, its norm, query and gate, the normed query, keys and values; an F32 cache is copied to
  F16, and a quantized one by the CUDA backend (ggml-cuda/fattn-common.cuh).
* the feed-forward network: residual, norm, up, gate, and up times the gate; all of them for each expert used.
* the logits: the final hidden states, and a row of the vocabulary for each output.

What is counted are the tensors that ggml's allocator keeps apart for the shapes of Qwen3.5, holes included; constants
were verified against `llama_model_params.no_alloc` from 0.8B to 35B-A3B, 4,096 to 262,144 cells. Most figures are
exact or too high; the total that a device needs is within 5 %.

A GPU also computes large calls with weights that stay on the CPU (ggml_backend_sched, op_offload), for which it copies
the largest of them, and the KV cache of their layers. With that the total was within 3.2 % on an H100; where llama.cpp
is installed, it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from qwen35_gguf.architecture import Architecture, VisionEncoder
from qwen35_gguf.runtime.context_spec import ContextSpec

F16, F32, I32, I64 = 2, 4, 4, 8
POSITIONS = 4  # numbers per token: M-RoPE's time, height, width, and one more
ROTATED = 64  # a quantized KV cache is rotated in blocks of this size, if the head size is a multiple of it
FLOAT_TYPES = ("f32", "f16", "bf16")  # of a KV cache
CELLS = 256  # llama.cpp rounds the context up to a multiple of it
OFFLOADED_TOKENS = 32  # from here on a GPU computes with weights of the CPU (GGML_OP_OFFLOAD_MIN_BATCH)
PIPELINED = 4  # calls that several devices compute at the same time (GGML_SCHED_MAX_COPIES)


@dataclass(frozen=True)
class Call:
    """The largest call, for which llama.cpp reserves buffers.

    Attributes:
        tokens: of all sequences.
        cells: of the KV cache.
        outputs: rows with logits.
        sequences: that it has tokens of.
        states: recurrent states that are written for each sequence.
        kv_type: of the KV cache.

    """

    tokens: int
    cells: int
    outputs: int
    sequences: int
    states: int
    kv_type: str

    @classmethod
    def largest(cls, spec: ContextSpec) -> Call:
        """Derive the largest call of a context."""
        tokens = min(spec.cells, spec.n_batch)
        return cls(
            tokens=-(-tokens // spec.n_seq) * spec.n_seq,
            cells=rounded_cells(spec.n_ctx),
            outputs=min(tokens, max(spec.n_outputs, spec.n_seq)),
            sequences=spec.n_seq,
            states=1 + spec.n_rs_seq,
            kv_type=spec.kv_type,
        )


def cell_bytes(model: Architecture, kv_type: str) -> int:
    """Return the bytes of a key and a value of one token in one full-attention layer."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kv_type.upper()]]
    return 2 * -(-model.kv_size // block) * size


def rounded_cells(n_ctx: int) -> int:
    """Round a context up as llama.cpp does."""
    return -(-n_ctx // CELLS) * CELLS


@dataclass(frozen=True)
class Share:
    """What one device computes.

    Attributes:
        delta_net: delta nets.
        attention: full attention of the main model.
        feed_forward: feed-forward networks of the main model.
        output: the output matrix.
        mtp: the block of the MTP head, without its feed-forward network.
        mtp_feed_forward: that network.
        gpu: it is a GPU of this machine: not the CPU, and not an RPC server.

    """

    delta_net: bool = False
    attention: bool = False
    feed_forward: bool = False
    output: bool = False
    mtp: bool = False
    mtp_feed_forward: bool = False
    gpu: bool = False

    @property
    def idle(self) -> bool:
        """Whether it computes nothing."""
        return replace(self, gpu=False) == Share()


EVERYTHING = Share(True, True, True, True, True, True)


@dataclass(frozen=True)
class Split:
    """A model on several devices.

    Attributes:
        cpu: what the CPU computes.
        devices: what each of the others computes.
        pipelined: several calls are computed at the same time: two devices or more hold all layers with all tensors.
        cpu_weights: bytes of the largest weight of a layer on the CPU.
        cpu_experts: bytes of the two largest tensors of experts in a layer.
        output_weights: bytes of the output matrix.

    """

    cpu: Share = EVERYTHING
    devices: tuple[Share, ...] = ()
    pipelined: bool = False
    cpu_weights: int = 0
    cpu_experts: int = 0
    output_weights: int = 0


@dataclass(frozen=True)
class ComputeBuffers:
    """Bytes of the compute buffers of both contexts: for each device, the CPU last."""

    main: tuple[int, ...]
    mtp: tuple[int, ...]

    @property
    def total(self) -> tuple[int, ...]:
        """Bytes of both contexts together, for each device."""
        return tuple(map(sum, zip(self.main, self.mtp, strict=True)))


def compute_buffers(
    model: Architecture, call: Call, split: Split, *, mtp: bool, patched: bool, draft_vocab_size: int = 0
) -> ComputeBuffers:
    """Compute the buffers of a split.

    Args:
        model: hyper-parameters, with the vocabulary size.
        call: the largest one.
        split: what computes what.
        mtp: whether the MTP head has a context.
        patched: llama.cpp has this project's patches: states of one sequence on the CPU are updated in place.
        draft_vocab_size: rows of the output matrix that the MTP head uses; 0: all.

    """
    formula = _Formula(model, call, split, patched, draft_vocab_size)
    shares = (*split.devices, split.cpu)
    main = tuple(formula.main(i, share) for i, share in enumerate(shares))
    head = tuple(formula.mtp(i, share) if mtp else 0 for i, share in enumerate(shares))
    return ComputeBuffers(main, head)


@dataclass(frozen=True)
class _Formula:
    model: Architecture
    call: Call
    split: Split
    patched: bool
    draft_vocab_size: int

    # ---- the parts, in bytes -------------------------------------------------------------------------------------

    def floats(self, per_token: float) -> int:
        return int(F32 * per_token * self.call.tokens)

    @property
    def hidden(self) -> int:
        return self.floats(self.model.hidden_size)

    @property
    def mask(self) -> int:
        return F16 * self.call.cells * self.call.tokens

    def inputs(self, *, attention: bool) -> int:
        """Count what is there for the whole call, embeddings or hidden states too; only attention reads the mask."""
        if not attention:
            return self.hidden
        rotation = 0
        if self.call.kv_type not in FLOAT_TYPES and self.model.head_dim % ROTATED == 0:
            block = math.gcd(self.model.head_dim, 1 << 30)  # the largest power of two in it
            rotation = F32 * (block**2 + ROTATED**2)
        per_token = I32 + POSITIONS * I32 + 2 * I64
        return self.hidden + per_token * self.call.tokens + self.mask + rotation

    @property
    def cache(self) -> int:
        """Keys and values of one layer in F16."""
        return 2 * F16 * self.call.cells * self.model.kv_size

    def attention(self, share: Share) -> int:
        model = self.model
        copied = self.call.kv_type == "f32" or (share.gpu and self.call.kv_type not in ("f16", "f32"))
        layer = 2 * model.hidden_size + 3 * model.query_size + 2 * model.kv_size
        return self.floats(layer) + (self.cache if copied else 0)

    def delta_net(self, *, on_cpu: bool) -> int:
        model, call = self.model, self.call
        in_place = on_cpu and self.patched and call.sequences == 1
        heads = 2 * model.linear_value_heads
        layer = self.floats(2 * (model.hidden_size + model.conv_channels) + model.linear_value_size + heads)
        if not in_place:
            layer += F32 * model.state_size * call.sequences * (1 + call.states)
        if self.patched:
            return layer
        window = F32 * model.conv_state_size * call.sequences  # stock copies it with all channels beside the result
        return max(layer, self.floats(2 * model.hidden_size + 3 * model.conv_channels + heads) + window)

    def feed_forward(self) -> int:
        """Without the residual and its norm."""
        experts = self.model.experts
        if experts is None:
            return self.floats(3 * self.model.intermediate_size)
        return self.floats(experts.used * (self.model.hidden_size + 3 * experts.intermediate_size))

    # ---- the buffers ---------------------------------------------------------------------------------------------

    @property
    def offload_device(self) -> int | None:
        """The device that computes large calls with the CPU's weights: the first GPU that computes anything."""
        if self.call.tokens < OFFLOADED_TOKENS:
            return None
        shares = enumerate(self.split.devices)
        return next((i for i, share in shares if share.gpu and not share.idle), None)

    def copied(self, *, attention: bool) -> int:
        """Count what the offload device copies for layers that are on the CPU: a weight, their cache with attention."""
        size = self.split.cpu_weights
        if attention:
            # Keys and values of one layer, and half as much again: what is freed for the next is in pieces.
            size += self.call.cells * cell_bytes(self.model, self.call.kv_type) * 3 // 2 + self.hidden
        return size

    def main(self, index: int, share: Share) -> int:
        """Bytes of the main model's context on a device."""
        on_cpu, cpu, offload = index == len(self.split.devices), self.split.cpu, self.offload_device
        copies = PIPELINED if self.split.pipelined else 1
        if share.idle and not on_cpu:
            return 0
        computed, copied = share, 0
        if index == offload:
            computed = replace(
                share,
                delta_net=share.delta_net or cpu.delta_net,
                attention=share.attention or cpu.attention,
                feed_forward=share.feed_forward or cpu.feed_forward,
            )
            if cpu.delta_net or cpu.attention or cpu.feed_forward:
                whole = cpu.delta_net or cpu.attention  # layers; two weights of them exist at a time
                copied = self.split.cpu_weights * (2 if whole and not self.model.experts else 1)
            if cpu.output and self.call.outputs >= OFFLOADED_TOKENS:
                copied += self.split.output_weights
        size = copies * self.inputs(attention=computed.attention or on_cpu) + copied
        if copies > 1 and not on_cpu:
            size += self.hidden
        peaks = [self.hidden]  # what comes from the device before
        if on_cpu and offload is not None:
            if share.delta_net:  # all but the matmuls
                layer = self.floats(2 * self.model.conv_channels + self.model.linear_value_size)
                peaks.append(layer if self.patched else max(layer, self.unpatched_windows()))
        else:
            peaks += self.layer_peaks(computed, on_cpu=on_cpu)
        if computed.output:
            # The mask is free by then; whether that serves for many logits depends on the shape, so half of it counts.
            again = self.mask // 2 if computed.attention and self.mask > max(peaks) else 0
            peaks.append(self.logits(self.call.outputs) + self.hidden - again)
        if index == offload and cpu.attention:
            quantized = self.cache if self.call.kv_type not in FLOAT_TYPES else 0
            peaks.append(self.copied(attention=True) - copied + 3 * self.hidden + quantized)
        if index == offload and cpu.feed_forward and self.model.experts:
            # One tensor of the experts is copied while the one before it is used: three rows of the residual's width
            # exist then, and the router's logits and weights.
            router = self.floats(2 * self.model.experts.count)
            peaks.append(self.split.cpu_experts - copied + 3 * self.hidden + router)
        return size + max(peaks)

    def layer_peaks(self, share: Share, *, on_cpu: bool) -> Iterator[int]:
        """Yield what each kind of layer needs at one time."""
        mixers = share.delta_net or share.attention
        if share.delta_net:
            yield self.delta_net(on_cpu=on_cpu)
        if share.attention:
            yield self.attention(share)
        if share.feed_forward:
            residuals = (3 if on_cpu else 2) if mixers else 1  # that of a device counts as an input
            yield self.feed_forward() + residuals * self.hidden
        elif mixers and self.model.experts:  # it adds up the results of experts that are elsewhere
            each = self.model.experts.used * self.model.hidden_size
            yield self.floats(each + self.model.conv_channels) + 3 * self.hidden

    def unpatched_windows(self) -> int:
        """Count what stock llama.cpp copies to store the states of the convolution."""
        return self.floats(self.model.conv_channels) * self.call.states

    def mtp(self, index: int, share: Share) -> int:
        """Bytes of the MTP head's context on a device."""
        on_cpu, cpu, offload = index == len(self.split.devices), self.split.cpu, self.offload_device
        copies = PIPELINED if self.split.pipelined else 1
        rows = min(self.call.tokens, self.call.sequences)
        computed, copied = share, 0
        if index == offload and (cpu.mtp or cpu.mtp_feed_forward):
            computed, copied = replace(share, mtp=True, mtp_feed_forward=True), self.copied(attention=cpu.mtp)
        if on_cpu and offload is not None:
            computed = replace(share, mtp=False, mtp_feed_forward=False)
        elif not (on_cpu or computed.mtp or computed.mtp_feed_forward):
            return self.logits(rows) if computed.output else 0
        size = copies * self.inputs(attention=computed.mtp or on_cpu) + copied
        if copies > 1 and not on_cpu:
            size += (1 + copies) * self.hidden  # of the embedding
        peaks = [self.hidden]
        if computed.mtp:
            peaks.append(self.attention(computed))
        if computed.mtp_feed_forward:
            experts = self.model.experts
            width = experts.used * experts.intermediate_size if experts else self.model.intermediate_size
            # Attention comes before: its mask is free by then, and is used again if it holds one of the tensors.
            again = self.mask if computed.mtp and copies == 1 and self.mask >= self.floats(width) else 0
            peaks.append(self.feed_forward() + self.hidden - again)
        if computed.output:
            padded = 2 if self.draft_vocab_size else 1  # rows that the head does not predict are added
            peaks.append(padded * self.logits(rows) + 2 * self.hidden)
        return size + max(peaks)

    def logits(self, rows: int) -> int:
        return F32 * rows * (self.model.vocab_size + self.model.hidden_size)


# ---- the vision encoder ------------------------------------------------------------------------------------------


def vision_buffer(encoder: VisionEncoder, columns: int, rows: int) -> int:
    """Return the bytes of the buffer that encodes an image of `columns` x `rows` patches.

    For each patch its positions, and the largest of three: its pixels, once more unfolded in F16, and an embedding;
    its pixels and four embeddings, while the two frames and the learned positions are added; in a block the residual,
    queries, keys and values, rotated queries and keys, and most of the F16 copies of keys and values.

    Source: llama.cpp tools/mtmd/models/qwen3vl.cpp, with flash attention.
    """
    width = encoder.hidden_size
    pixels = encoder.in_channels * encoder.patch_size**2
    per_patch = POSITIONS + max(1.5 * pixels + width, pixels + 4 * width, 6.75 * width)
    return int(F32 * columns * rows * per_patch)
