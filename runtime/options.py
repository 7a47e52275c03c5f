"""What a caller decides: how a model is loaded, and how an answer is generated; checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.context_spec import IMAGE_PIXELS, KV_TYPES
from qwen35_gguf.runtime.engine.draft_depth import MAX_DEPTH, Depth
from qwen35_gguf.runtime.engine.sampling import LIMITS
from qwen35_gguf.runtime.llama.devices import Layers
from qwen35_gguf.runtime.media.image import MediaLimits
from qwen35_gguf.runtime.media.video import VideoLimits


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded. What is None or empty is decided by a profile of `qwen35 tune`, or has the given default.

    Attributes:
        path: the GGUF of the text model.
        mmproj: the GGUF of the vision encoder; by default one that fits is searched beside the model when the first
            image is used.
        n_ctx: tokens of context. By default 16,384; beyond 262,144 YaRN is switched on.
        n_batch: tokens of a prompt that are evaluated in one call, by default 512.
        n_threads: by default one for each physical core.
        n_gpu_layers: layers on other devices, where llama.cpp was built for some; -1 for all. "auto", the default,
            places layers and tensors as `qwen35 plan` shows. A number overrides a profile's placement. A profile's
            placement that does not fit, as with a longer context than that of the trials, is replaced by a plan.
        devices: names of GPUs that may be used, or "cpu" for none; by default all.
        rpc: RPC servers (host:port) whose devices may be used as well.
        kv_type: of the KV cache: f16 (the default), q8_0 and so on.
        draft: tokens that the MTP head drafts in each step: 0 to 4, or "auto" (the default), which measures what is
            fastest. Without an MTP head in the file nothing is drafted.
        profile: use a profile if there is one.
        cache_bytes: of states of prompts, so that of a conversation only what is new is evaluated; by default a quarter
            of the memory that is left, at least 8 and at most 32 recurrent states. 0: none.
        state_dir: a folder in which states are kept between runs.
        media_limits: what may be loaded, and how large images become.
        video_limits: how videos are sampled.
        check_memory: refuse to load what does not fit into the free memory.

    Raises:
        MessageError: a value is malformed.

    """

    path: Path
    mmproj: Path | None = None
    n_ctx: int | None = None
    n_batch: int | None = None
    n_threads: int | None = None
    n_gpu_layers: Layers | None = None
    devices: tuple[str, ...] = ()
    rpc: tuple[str, ...] = ()
    kv_type: str | None = None
    draft: Depth | None = None
    profile: bool = True
    cache_bytes: int | None = None
    state_dir: Path | None = None
    media_limits: MediaLimits | None = None
    video_limits: VideoLimits | None = None
    check_memory: bool = True

    def __post_init__(self) -> None:
        for name in ("n_ctx", "n_batch"):
            value = getattr(self, name)
            if value is not None and not _is_count(value):
                raise MessageError(f"{name}: {value!r} is not a whole number from 1")
        if self.kv_type is not None and self.kv_type not in KV_TYPES:
            raise MessageError(f"kv_type: {self.kv_type!r} is not one of {', '.join(KV_TYPES)}")
        if self.n_gpu_layers not in (None, "auto") and not _is_count(self.n_gpu_layers, -1):
            raise MessageError(f'n_gpu_layers: {self.n_gpu_layers!r} is not "auto", -1 or a whole number from 0')
        draft = self.draft
        if draft not in (None, "auto") and not (isinstance(draft, int) and _is_count(draft, 0) and draft <= MAX_DEPTH):
            raise MessageError(f'draft: {draft!r} is not "auto" or a whole number from 0 to {MAX_DEPTH}')

    @classmethod
    def of(cls, path: str | Path | LoadOptions, keywords: Mapping[str, Any]) -> LoadOptions:
        """Make options of the arguments of `Qwen35`: ready ones, or keywords, where paths and lists may vary in type.

        Raises:
            TypeError: there is no option of a name, as for any function.
            MessageError: a value is malformed.

        """
        if isinstance(path, LoadOptions):
            if keywords:
                raise TypeError("give LoadOptions or keywords, not both")
            return path
        exact = dict(keywords)
        for name in ("mmproj", "state_dir"):
            if exact.get(name) is not None:
                exact[name] = Path(exact[name])
        for name in ("devices", "rpc"):
            if name in exact:
                exact[name] = tuple(exact[name])
        return cls(Path(path), **exact)

    @property
    def image_pixels(self) -> int:
        """The most pixels of an image."""
        return self.media_limits.max_pixels if self.media_limits else IMAGE_PIXELS


class LoadKeywords(TypedDict, total=False):
    """The keywords of `Qwen35`; see `LoadOptions`."""

    mmproj: str | Path | None
    n_ctx: int | None
    n_batch: int | None
    n_threads: int | None
    n_gpu_layers: Layers | None
    devices: Sequence[str]
    rpc: Sequence[str]
    kv_type: str | None
    draft: Depth | None
    profile: bool
    cache_bytes: int | None
    state_dir: str | Path | None
    media_limits: MediaLimits | None
    video_limits: VideoLimits | None
    check_memory: bool


@dataclass(frozen=True)
class GenerateOptions:
    """How an answer is generated. None leaves a decision to the file or to Qwen's preset.

    Attributes:
        max_tokens: generated at most, reasoning included; by default as many as the context holds.
        stop: texts before which the content ends.
        seed: repeats an answer; by default a new one each time.
        draft: as of the model; what is not loaded cannot be switched on.
        grammar: GBNF of llama.cpp that the content obeys, after the thinking.
        response_format: OpenAI-style; a JSON schema is enforced, after the thinking.
        thinking: think before answering; by default as the file's template does.
        thinking_budget: end the thinking after N tokens.
        tools: OpenAI-style functions that may be called.
        tool_choice: "auto", "none", "required", or `{"type": "function", "function": {"name": ...}}`.
        timeout: seconds that the request may take, waiting for other calls and reading included.
        temperature: see `engine.sampling.Sampling`, as the fields that follow; by default those of the file, else those
            that Qwen recommends with thinking and without.
        top_p: see there.
        top_k: see there.
        min_p: see there.
        presence_penalty: see there.
        frequency_penalty: see there.
        repeat_penalty: see there.

    Raises:
        MessageError: a value is malformed.

    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    draft: Depth | None = None
    grammar: str | None = None
    response_format: Mapping[str, Any] | None = None
    thinking: bool | None = None
    thinking_budget: int | None = None
    tools: Any = None
    tool_choice: Any = None
    timeout: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "thinking_budget"):
            value = getattr(self, name)
            if value is not None and not _is_count(value):
                raise MessageError(f"{name}: {value!r} is not a whole number from 1")
        if self.timeout is not None and not (isinstance(self.timeout, int | float) and self.timeout > 0):
            raise MessageError(f"timeout: {self.timeout!r} is not a number of seconds above 0")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise MessageError("stop: is not a text or a list of texts, none of them empty")

    @classmethod
    def of(
        cls, options: GenerateOptions | None, keywords: Mapping[str, Any], allowed: Sequence[str] | None = None
    ) -> GenerateOptions:
        """Make options of the arguments of a call: ready ones, or keywords.

        Args:
            options: ready ones.
            keywords: names and values; `stop` may be a single text or a list.
            allowed: the names that the call accepts; None: all.

        Raises:
            TypeError: both are given.
            MessageError: there is no option of a name, or a value is malformed.

        """
        every = [field.name for field in fields(cls)]
        names = every if allowed is None else allowed
        if options is not None:
            if keywords:
                raise TypeError("give GenerateOptions or keywords, not both")
            default = cls()
            keywords = {name: getattr(options, name) for name in every if name not in names}
            keywords = {name: value for name, value in keywords.items() if value != getattr(default, name)}
        if unknown := sorted(set(keywords) - set(names)):
            raise MessageError(f"{', '.join(unknown)}: not an option; use {', '.join(names)}")
        if options is not None:
            return options
        exact = dict(keywords)
        if "stop" in exact:
            stop = exact["stop"]
            if not isinstance(stop, str | Sequence | None):
                raise MessageError("stop: is not a text or a list of texts, none of them empty")
            exact["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
        return cls(**exact)

    @property
    def sampling(self) -> dict[str, float | None]:
        """What overrides the presets of sampling."""
        return {name: getattr(self, name) for name in LIMITS}


class GenerateKeywords(TypedDict, total=False):
    """The keywords of `Qwen35.chat`; see `GenerateOptions`."""

    max_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    draft: Depth | None
    grammar: str | None
    response_format: Mapping[str, Any] | None
    thinking: bool | None
    thinking_budget: int | None
    tools: Any
    tool_choice: Any
    timeout: float | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repeat_penalty: float | None


# The options of a call without chat template, and of one with several prompts.
RAW_OPTIONS = ("max_tokens", "stop", "seed", "draft", "grammar", "timeout", *LIMITS)
MANY_OPTIONS = ("max_tokens", "seed", "thinking", "timeout", *LIMITS)
