"""How a model is loaded; checked when it is decided."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.context_spec import AUTO_KV_TYPE, CHECKPOINT_TYPES, IMAGE_PIXELS, KV_TYPES
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.scheduler import MAX_GAP, MAX_PARALLEL
from qwen35_gguf.runtime.field_checks import (
    FOREVER,
    bytes_of,
    check_fields,
    checked,
    choice,
    either,
    file_path,
    flag,
    instance,
    number,
    optional,
    refuse,
    required,
    texts,
    tokens,
    whole,
)
from qwen35_gguf.runtime.llama.adapters.loaded import AdapterSpec
from qwen35_gguf.runtime.llama.devices import Layers
from qwen35_gguf.runtime.media.image import MediaLimits
from qwen35_gguf.runtime.media.video import VideoLimits
from qwen35_gguf.runtime.options.checks import depth, of_template

MAX_THREADS = 512  # GGML_MAX_N_THREADS
MAX_BATCH = 1 << 16
LARGEST_SCALE = 1000.0  # of an adapter

_layers = either("auto", whole(-1))


def _adapters(name: str, value: Any) -> tuple[AdapterSpec, ...]:
    """Check adapters: a path, or a list of paths and of pairs of a path and a scale."""
    wanted = "a list of paths, or of (path, scale)"
    if value is None:
        return ()
    if isinstance(value, str | Path | AdapterSpec):
        value = (value,)
    if not isinstance(value, list | tuple):
        raise refuse(name, value, wanted)
    found = []
    for number_, each in enumerate(value):
        pair = each if isinstance(each, list | tuple) else (each, 1.0)
        if len(pair) != 2:
            raise refuse(f"{name}[{number_}]", each, "a path and a scale")
        scale = number(-LARGEST_SCALE, LARGEST_SCALE)(f"{name}[{number_}]", pair[1])
        found.append(AdapterSpec(file_path(f"{name}[{number_}]", pair[0]), float(scale)))
    return tuple(found)


def _patterns(name: str, value: Any) -> tuple[re.Pattern[str], ...]:
    """Check regular expressions: a text or a pattern, or a list of them."""
    if value is None:
        return ()
    given = value if isinstance(value, list | tuple) else (value,)
    found = []
    for each in given:
        if not isinstance(each, str | re.Pattern) or not each:
            raise refuse(name, each, "a regular expression")
        try:
            found.append(re.compile(each))
        except (re.error, RecursionError) as error:
            raise MessageError(f"{name}: {each!r} is not a regular expression ({error}); correct it") from None
    return tuple(found)


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded. What is None or empty is decided by a profile of `qwen35 tune`, or has the given default.

    Attributes:
        path: the GGUF of the text model.
        mtp: the GGUF of an MTP head alone, for a model without one; by default `mtp-*.gguf` beside it that fits.
        mmproj: the GGUF of the vision encoder; by default one that fits is searched beside the model when the first
            image is used.
        n_ctx: tokens of context, also as "32k" or "1M". By default 16,384; beyond 262,144 YaRN is switched on.
        n_batch: tokens of a prompt that are evaluated in one call, by default 512.
        n_threads: by default one for each physical core.
        n_gpu_layers: layers on other devices, where llama.cpp was built for some; -1 for all. "auto", the default,
            places layers and tensors as `qwen35 plan` shows. A number overrides a profile's placement. A profile's
            placement that does not fit, as with a longer context than that of the trials, is replaced by a plan.
        devices: names of GPUs that may be used, or "cpu" for none; by default all.
        rpc: RPC servers (host:port) whose devices may be used as well.
        kv_type: of the KV cache: f16 (the default), q8_0 and so on, or "auto": the one that is read fastest and changes
            predictions by less than 1e-4 nats on average.
        draft: tokens that are drafted in each step, by the MTP head and by n-grams: 0 to 4, or "auto" (the default),
            which measures what is fastest. Without an MTP head n-grams draft alone.
        profile: use a profile if there is one.
        cache_bytes: of states of prompts, so that of a conversation only what is new is evaluated; by default a quarter
            of the memory that is left, at least 8 and at most 32 recurrent states. 0: none. Also as "2GB".
        checkpoint_type: of the recurrent states that are kept in memory: f32 (the default); f16 or q8_0, of which twice
            or three times as many fit. What continues from a smaller one differs by rounding, less than 1e-4 nats on
            average.
        state_dir: a folder in which states are kept between runs.
        state_bytes: of that folder at most, by default 8 GB; the least useful states are removed first.
        media_limits: what may be loaded, and how large images become.
        video_limits: how videos are sampled.
        check_memory: refuse to load what does not fit into the free memory.
        parallel: requests that run side by side, each with `n_ctx` tokens of context.
        max_gap: seconds that an answer may wait for the next part of another request's prompt.
        queue_limit: requests that may wait for others; by default any number. A further one is refused.
        template_options: of the file's chat template, for requests that do not have them themselves.
        stop_loops: for requests that do not decide it themselves; see `GenerateOptions`.
        ignore: regular expressions; what they match in the texts of messages is removed, such as a time that changes
            with each request: the prompt is known again then.
        deterministic: an answer does not depend on what runs beside it, not even by rounding; slower. Drafts are then
            made only with a fixed depth, and only by an MTP head.
        ahead: after an answer, while nothing is asked, evaluate what the next turn of the conversation begins with.
        adapters: GGUF LoRAs that are applied, each a path, or a path and a scale (by default 1).

    Raises:
        MessageError: a value is malformed.

    """

    path: Path = required(file_path)
    mmproj: Path | None = checked(optional(file_path))
    mtp: Path | None = checked(optional(file_path))
    n_ctx: int | None = checked(optional(tokens()))
    n_batch: int | None = checked(optional(whole(1, MAX_BATCH)))
    n_threads: int | None = checked(optional(whole(1, MAX_THREADS)))
    n_gpu_layers: Layers | None = checked(optional(_layers))
    devices: tuple[str, ...] = checked(texts("a name or a list of names, none of them empty"), ())
    rpc: tuple[str, ...] = checked(texts("host:port or a list of them"), ())
    kv_type: str | None = checked(optional(choice((*KV_TYPES, AUTO_KV_TYPE))))
    draft: Depth | None = checked(optional(depth))
    profile: bool = checked(flag, True)
    cache_bytes: int | None = checked(optional(bytes_of()))
    state_dir: Path | None = checked(optional(file_path))
    media_limits: MediaLimits | None = checked(optional(instance(MediaLimits)))
    video_limits: VideoLimits | None = checked(optional(instance(VideoLimits)))
    check_memory: bool = checked(flag, True)
    adapters: tuple[AdapterSpec, ...] = checked(_adapters, ())
    parallel: int = checked(whole(1, MAX_PARALLEL), 1)
    max_gap: float = checked(number(0, FOREVER, above=True), MAX_GAP)
    deterministic: bool = checked(flag, False)
    state_bytes: int | None = checked(optional(bytes_of()))
    queue_limit: int | None = checked(optional(whole(0)))
    template_options: Mapping[str, Any] | None = checked(optional(of_template))
    stop_loops: bool = checked(flag, False)
    ignore: tuple[re.Pattern[str], ...] = checked(_patterns, ())
    ahead: bool = checked(flag, False)
    checkpoint_type: str = checked(choice(CHECKPOINT_TYPES), "f32")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.deterministic and self.checkpoint_type != "f32":
            message = "an answer would depend on what was kept; use f32"
            raise MessageError(f"checkpoint_type: {self.checkpoint_type} with deterministic: {message}")

    @classmethod
    def of(cls, path: str | Path | LoadOptions, keywords: Mapping[str, Any]) -> LoadOptions:
        """Make options of the arguments of `Qwen35`: ready ones, or keywords.

        Raises:
            TypeError: there is no option of a name, as for any function.
            MessageError: a value is malformed.

        """
        if isinstance(path, LoadOptions):
            if keywords:
                raise TypeError("give LoadOptions or keywords, not both")
            return path
        return cls(path, **keywords)  # type: ignore[arg-type]

    @property
    def image_pixels(self) -> int:
        """The most pixels of an image."""
        return self.media_limits.max_pixels if self.media_limits else IMAGE_PIXELS
