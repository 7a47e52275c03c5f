"""The settings that decide how fast a model runs here, and the specs that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from qwen35_gguf.gguf_file.header import GgufHeader
from qwen35_gguf.runtime.context_spec import IMAGE_PIXELS, ContextSpec, MemoryRequest, Yarn
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.engine.drafts.draft_depth import MAX_DEPTH, Depth
from qwen35_gguf.runtime.engine.forest.live_sequence import CACHED_STATES
from qwen35_gguf.runtime.llama.adapters.loaded import AdapterSpec
from qwen35_gguf.runtime.llama.devices import Offload
from qwen35_gguf.runtime.llama.model import ModelSpec


@dataclass(frozen=True)
class Settings:
    """What a profile decides.

    Attributes:
        threads: for generating.
        threads_batch: for prompts.
        n_batch: tokens of a prompt in one call.
        flash_attention: instead of attention with a stored matrix of scores.
        kv_type: of the KV cache.
        repack: copy weights into another order at load (`use_extra_bufts`).
        mmap: map the file instead of reading it.
        mlock: keep its pages in memory.
        gpu_layers: number of layers on other devices, -1 for all; "auto": what a plan finds best, none if there is no
            device.
        host_feed_forward: number of these whose feed-forward networks stay on the CPU; a plan decides that itself.
        split: shares of these layers that the devices get, 0 for none; empty: as planned, or in proportion to memory.
        draft: whether tokens may be drafted.

    """

    threads: int
    threads_batch: int
    n_batch: int = 512
    flash_attention: bool = True
    kv_type: str = "f16"
    repack: bool = True
    mmap: bool = True
    mlock: bool = False
    gpu_layers: int | Literal["auto"] = "auto"
    host_feed_forward: int = 0
    split: tuple[int, ...] = ()
    draft: bool = True

    @classmethod
    def default(cls) -> Settings:
        """Return what is used when nothing was tuned."""
        cores = default_threads()
        return cls(cores, cores)

    @property
    def depth(self) -> Literal[0, "auto"]:
        """The draft depth."""
        return "auto" if self.draft else 0

    def but(self, name: str, value: Any) -> Settings:
        """Return a copy with one of them changed."""
        return replace(self, **{name: value})


def from_record(record: dict[str, Any]) -> Settings:
    """Return what `dataclasses.asdict` gave, read back from JSON, which has lists only."""
    return Settings(**record | {"split": tuple(record["split"])})


def model_spec(settings: Settings, offload: Offload, *, mtp: bool, adapters: tuple[AdapterSpec, ...] = ()) -> ModelSpec:
    """Return how the model is loaded."""
    return ModelSpec(
        offload, mtp=mtp, repack=settings.repack, mmap=settings.mmap, mlock=settings.mlock, adapters=adapters
    )


def context_spec(settings: Settings, n_ctx: int, yarn: Yarn | None = None) -> ContextSpec:
    """Return the parameters of a context for one sequence without drafts."""
    return ContextSpec(
        n_ctx=n_ctx,
        n_batch=settings.n_batch,
        n_threads=settings.threads,
        n_threads_batch=settings.threads_batch,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
        yarn=yarn,
    )


def memory_request(
    settings: Settings,
    depth: Depth,
    *,
    n_ctx: int,
    cached_states: int = CACHED_STATES,
    mmproj: GgufHeader | None = None,
    image_pixels: int = IMAGE_PIXELS,
) -> MemoryRequest:
    """Return what must fit into memory for settings, beside the weights.

    Args:
        settings: to load with.
        depth: of drafts; the MTP head is loaded unless it is 0, if there is one.
        n_ctx: cells.
        cached_states: recurrent states that the prefix cache holds.
        mmproj: header of the vision encoder.
        image_pixels: of the largest image.

    """
    rollback = MAX_DEPTH if depth == "auto" else depth
    spec = replace(context_spec(settings, n_ctx), n_rs_seq=rollback, n_outputs=1 + rollback)
    return MemoryRequest(spec, rollback > 0, cached_states, mmproj, image_pixels)
