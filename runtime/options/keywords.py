"""The keywords of `Qwen35` and of its calls, for type checkers: what `options` checks, in the types that it accepts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.token_mask import Grammar
from qwen35_gguf.runtime.llama.devices import Layers
from qwen35_gguf.runtime.media.image import MediaLimits
from qwen35_gguf.runtime.media.video import VideoLimits


class LoadKeywords(TypedDict, total=False):
    """The keywords of `Qwen35`; see `LoadOptions`."""

    mmproj: str | Path | None
    mtp: str | Path | None
    n_ctx: int | str | None
    n_batch: int | None
    n_threads: int | None
    n_gpu_layers: Layers | None
    devices: str | Sequence[str]
    rpc: str | Sequence[str]
    kv_type: str | None
    draft: Depth | None
    profile: bool
    cache_bytes: int | str | None
    state_dir: str | Path | None
    media_limits: MediaLimits | None
    video_limits: VideoLimits | None
    check_memory: bool
    adapters: Sequence[str | Path | tuple[str | Path, float]]
    parallel: int
    max_gap: float
    deterministic: bool
    state_bytes: int | str | None
    queue_limit: int | None
    template_options: Mapping[str, Any] | None
    stop_loops: bool
    checkpoint_type: str
    ignore: str | re.Pattern[str] | Sequence[str | re.Pattern[str]] | None
    ahead: bool


class FreeKeywords(TypedDict, total=False):
    """The keywords of `Qwen35.chat` beside `response_format`; see `GenerateOptions` and OpenAI's API."""

    max_tokens: int | None
    max_completion_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    n: int | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    draft: Depth | None
    grammar: str | Grammar | None
    thinking: bool | None
    thinking_budget: int | None
    template_options: Mapping[str, Any] | None
    stop_loops: bool | None
    chat_template_kwargs: Mapping[str, Any] | None
    reasoning_effort: str | None
    tools: Any
    tool_choice: Any
    parallel_tool_calls: bool | None
    timeout: float | None
    include_usage: bool | None
    cache_scope: str | None
    stream_options: Mapping[str, Any] | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repeat_penalty: float | None
    top_n_sigma: float | None
    xtc_probability: float | None
    xtc_threshold: float | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    dry_penalty_last_n: int | None
    user: str | None
    metadata: Mapping[str, Any] | None
    store: bool | None
    service_tier: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None


class GenerateKeywords(FreeKeywords, total=False):
    """The keywords of `Qwen35.chat`."""

    response_format: Any
