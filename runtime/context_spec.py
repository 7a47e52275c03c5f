"""What a llama.cpp context is made with, and what must fit into memory beside the weights."""

from __future__ import annotations

from dataclasses import dataclass

from qwen35_gguf.gguf_file.header import GgufHeader

IMAGE_PIXELS = 4_194_304  # of the largest image, by default
N_BATCH = 512
LEAST_CELLS = 256
WAITING_ROWS = 1024  # of a sequence that wait for the MTP head at most; it never sees older ones
KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2}  # ggml_type
CHECKPOINT_TYPES = ("f32", "f16", "q8_0")
AUTO_KV_TYPE = "auto"  # what is fastest; decided before a context is made


@dataclass(frozen=True)
class Yarn:
    """RoPE scaling for a context beyond the native one.

    llama.cpp derives the rest: extrapolation is on, the attention factor is 0.1 ln(1 / freq_scale) + 1 as in
    transformers, and beta_fast and beta_slow are 32 and 1.

    Attributes:
        freq_scale: native context over `n_ctx`, below 1.
        native_ctx: the length that the model was trained for.

    """

    freq_scale: float
    native_ctx: int


@dataclass(frozen=True)
class ContextSpec:
    """The parameters of a context; a field means what it means in `llama_context_params`.

    Attributes:
        n_ctx: cells, over all sequences.
        n_batch: rows of one call; also the physical batch (`n_ubatch`), so that a call is never split.
        n_threads: for generating.
        n_threads_batch: for prompts; None: as `n_threads`.
        kv_type: of both caches; a key of `KV_TYPES`.
        flash_attention: use it where llama.cpp can; otherwise attention with a stored matrix of scores.
        n_seq: sequences, which share the cells.
        separate: each sequence has its part of the cells for itself, and shares none.
        n_rs_seq: tokens of the last call that can be rolled back (the draft depth).
        n_outputs: rows with logits of one call.
        yarn: for a context beyond the native one.
        checkpoint_type: of kept copies of recurrent states; one of `CHECKPOINT_TYPES`.

    """

    n_ctx: int
    n_batch: int = N_BATCH
    n_threads: int = 1
    n_threads_batch: int | None = None
    kv_type: str = "f16"
    flash_attention: bool = True
    n_seq: int = 1
    separate: bool = False
    n_rs_seq: int = 0
    n_outputs: int = 1
    yarn: Yarn | None = None
    checkpoint_type: str = "f32"

    @property
    def cells(self) -> int:
        """The cells to ask for: llama.cpp rounds up to 256, but limits a batch to what it was asked for."""
        return max(self.n_ctx, LEAST_CELLS)


@dataclass(frozen=True)
class MemoryRequest:
    """What must fit into memory together with the weights.

    Attributes:
        context: of the main model.
        mtp: whether the MTP head is loaded, with a context of its own.
        cached_states: recurrent states that the prefix cache holds.
        mmproj: header of the vision encoder; None without one.
        image_pixels: of the largest image that it encodes.
        beside: bytes of what is loaded with the model: GGUF LoRAs, an MTP head in a file of its own.

    """

    context: ContextSpec
    mtp: bool = False
    cached_states: int = 0
    mmproj: GgufHeader | None = None
    image_pixels: int = IMAGE_PIXELS
    beside: int = 0
