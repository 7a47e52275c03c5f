"""What a caller decides: how a model is loaded, and how an answer is generated; checked when they are made."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.context_spec import AUTO_KV_TYPE, IMAGE_PIXELS, KV_TYPES
from qwen35_gguf.runtime.engine.draft_depth import MAX_DEPTH, Depth
from qwen35_gguf.runtime.engine.sampling import LIMITS
from qwen35_gguf.runtime.engine.scheduler import MAX_GAP, MAX_PARALLEL
from qwen35_gguf.runtime.engine.token_mask import Grammar
from qwen35_gguf.runtime.field_checks import (
    FOREVER,
    Check,
    anything,
    bytes_of,
    check_fields,
    checked,
    choice,
    either,
    file_path,
    flag,
    instance,
    mapping,
    number,
    optional,
    refuse,
    required,
    text,
    texts,
    tokens,
    whole,
)
from qwen35_gguf.runtime.llama.adapters.loaded import AdapterSpec
from qwen35_gguf.runtime.llama.devices import Layers
from qwen35_gguf.runtime.media.image import MediaLimits
from qwen35_gguf.runtime.media.video import VideoLimits

MAX_THREADS = 512  # GGML_MAX_N_THREADS
MAX_BATCH = 1 << 16
MAX_CHOICES = 128
MAX_LOGPROBS = 20
BIAS = 100.0
LARGEST_SCALE = 1000.0  # of an adapter
TEMPLATE_OWN = ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "self")
STOP = "a text or a list of texts, none of them empty"

_layers = either("auto", whole(-1))
_depth = either("auto", whole(0, MAX_DEPTH))


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
        draft: tokens that the MTP head drafts in each step: 0 to 4, or "auto" (the default), which measures what is
            fastest. Without an MTP head in the file nothing is drafted.
        profile: use a profile if there is one.
        cache_bytes: of states of prompts, so that of a conversation only what is new is evaluated; by default a quarter
            of the memory that is left, at least 8 and at most 32 recurrent states. 0: none. Also as "2GB".
        state_dir: a folder in which states are kept between runs.
        state_bytes: of that folder at most, by default 8 GB; the least useful states are removed first.
        media_limits: what may be loaded, and how large images become.
        video_limits: how videos are sampled.
        check_memory: refuse to load what does not fit into the free memory.
        parallel: requests that run side by side, each with `n_ctx` tokens of context.
        max_gap: seconds that an answer may wait for the next part of another request's prompt.
        queue_limit: requests that may wait for others; by default any number. A further one is refused.
        ignore: regular expressions; what they match in the texts of messages is removed, such as a time that changes
            with each request: the prompt is known again then.
        deterministic: an answer does not depend on what runs beside it, not even by rounding; slower. Drafts are then
            made only with a fixed depth.
        adapters: GGUF LoRAs that are applied, each a path, or a path and a scale (by default 1).

    Raises:
        MessageError: a value is malformed.

    """

    path: Path = required(file_path)
    mmproj: Path | None = checked(optional(file_path))
    n_ctx: int | None = checked(optional(tokens()))
    n_batch: int | None = checked(optional(whole(1, MAX_BATCH)))
    n_threads: int | None = checked(optional(whole(1, MAX_THREADS)))
    n_gpu_layers: Layers | None = checked(optional(_layers))
    devices: tuple[str, ...] = checked(texts("a name or a list of names, none of them empty"), ())
    rpc: tuple[str, ...] = checked(texts("host:port or a list of them"), ())
    kv_type: str | None = checked(optional(choice((*KV_TYPES, AUTO_KV_TYPE))))
    draft: Depth | None = checked(optional(_depth))
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
    ignore: tuple[re.Pattern[str], ...] = checked(_patterns, ())

    def __post_init__(self) -> None:
        check_fields(self)

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


def _sampled(name: str) -> Check:
    low, high = LIMITS[name]
    return optional(whole(int(low), int(high)) if name == "top_k" else number(low, high))


def template_variables(name: str, value: Any) -> dict[str, Any]:
    """Check further variables of a chat template; those that the library sets are not among them."""
    found = dict(mapping(name, value))
    for variable in found:
        if variable in TEMPLATE_OWN:
            raise MessageError(f"{name}: {variable} is set by other options; leave it out")
    return found


def _biases(name: str, value: Any) -> dict[int, float]:
    """Check a bias for each of some tokens; in JSON their ids are texts."""
    if not isinstance(value, Mapping):
        raise refuse(name, value, "an object with ids of tokens and numbers")
    bias = number(-BIAS, BIAS)
    found = {}
    for token, amount in value.items():
        known = int(token) if isinstance(token, str) and token.isdecimal() and token.isascii() else token
        found[whole(0)(f"{name}: token", known)] = bias(f"{name}[{known}]", amount)
    return found


@dataclass(frozen=True)
class GenerateOptions:
    """How an answer is generated. None leaves a decision to the file or to Qwen's preset.

    Attributes:
        max_tokens: generated at most, reasoning included; by default as many as the context holds. As a keyword also
            `max_completion_tokens`.
        stop: texts before which the content ends.
        seed: repeats an answer; by default a new one each time.
        n: answers to the same messages, each with a seed of its own.
        logit_bias: is added to the logits of tokens: ids and numbers from -100 to 100.
        draft: as of the model; what is not loaded cannot be switched on.
        logprobs: give the log-probabilities of the content's tokens: by the logits with their biases, before penalties,
            temperature and grammar.
        top_logprobs: and those of the N most probable tokens at each place.
        grammar: rules that the content obeys, after the thinking: a `Grammar`, or a text in GBNF of llama.cpp.
        response_format: the form of the content, after the thinking: OpenAI-style; or a class of pydantic, or another
            type, in which the result's `parsed` is given.
        thinking: think before answering; by default as the file's template does.
        thinking_budget: end the thinking after N tokens.
        chat_template_kwargs: further variables of the file's chat template, as OpenAI-style servers accept them;
            `enable_thinking` in it is `thinking`.
        tools: OpenAI-style functions that may be called.
        tool_choice: "auto", "none", "required", or `{"type": "function", "function": {"name": ...}}`.
        parallel_tool_calls: an answer may have more than one call; by default it may.
        include_usage: give the usage in a last chunk of its own, without choices, as OpenAI's `stream_options` does; by
            default it is in the chunk with the finish reason, and if False in none.
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

    max_tokens: int | None = checked(optional(whole()))
    stop: tuple[str, ...] = checked(texts(STOP), ())
    seed: int | None = checked(optional(whole(0, (1 << 64) - 1)))
    n: int = checked(whole(1, MAX_CHOICES), 1)
    logit_bias: Mapping[int, float] | None = checked(optional(_biases))
    draft: Depth | None = checked(optional(_depth))
    logprobs: bool | None = checked(optional(flag))
    top_logprobs: int | None = checked(optional(whole(0, MAX_LOGPROBS)))
    grammar: str | Grammar | None = checked(optional(lambda n, v: v if isinstance(v, Grammar) else text(n, v)))
    response_format: Any = checked(anything)
    thinking: bool | None = checked(optional(flag))
    thinking_budget: int | None = checked(optional(whole()))
    chat_template_kwargs: Mapping[str, Any] | None = checked(optional(template_variables))
    tools: Any = checked(anything)
    tool_choice: Any = checked(anything)
    parallel_tool_calls: bool | None = checked(optional(flag))
    timeout: float | None = checked(optional(number(0, FOREVER, above=True)))
    include_usage: bool | None = checked(optional(flag))
    temperature: float | None = checked(_sampled("temperature"))
    top_p: float | None = checked(_sampled("top_p"))
    top_k: int | None = checked(_sampled("top_k"))
    min_p: float | None = checked(_sampled("min_p"))
    presence_penalty: float | None = checked(_sampled("presence_penalty"))
    frequency_penalty: float | None = checked(_sampled("frequency_penalty"))
    repeat_penalty: float | None = checked(_sampled("repeat_penalty"))

    def __post_init__(self) -> None:
        check_fields(self)
        if self.top_logprobs is not None and not self.logprobs:
            raise MessageError("top_logprobs: are given with logprobs only; set it to true, or leave both out")

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
            if not isinstance(options, cls):
                raise refuse("options", options, "a GenerateOptions; give single options by name")
            default = cls()
            keywords = {name: getattr(options, name) for name in every if name not in names}
            keywords = {name: value for name, value in keywords.items() if value != getattr(default, name)}
        else:
            keywords = _openai(keywords)
        if unknown := sorted(set(keywords) - set(names)):
            raise MessageError(f"{', '.join(unknown)}: not an option; use {', '.join(names)}")
        return cls(**keywords) if options is None else options

    @property
    def sampling(self) -> dict[str, float | None]:
        """What overrides the presets of sampling."""
        return {name: getattr(self, name) for name in LIMITS}


# Of OpenAI's API: they concern its accounts, and change no answer.
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")


def _openai(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Translate OpenAI's names of options to ours.

    Raises:
        MessageError: two names of one option have different values.

    """
    exact = {name: value for name, value in keywords.items() if name not in IGNORED}
    if "max_completion_tokens" in exact:
        value = exact.pop("max_completion_tokens")
        if value is not None and exact.get("max_tokens") not in (None, value):
            raise MessageError("max_tokens, max_completion_tokens: are two names of one option; give one of them")
        exact["max_tokens"] = exact.get("max_tokens") if value is None else value
    if "stream_options" in exact:
        given = exact.pop("stream_options")
        found = {} if given is None else dict(mapping("stream_options", given))
        if unknown := sorted(set(found) - {"include_usage", "include_obfuscation"}):
            raise MessageError(f"stream_options: {unknown[0]} is not an option; use include_usage")
        exact.setdefault("include_usage", found.get("include_usage"))
    given = exact.get("chat_template_kwargs")
    if isinstance(given, Mapping) and "enable_thinking" in given:
        variables = dict(given)
        if exact.setdefault("thinking", variables.pop("enable_thinking")) is None:
            del exact["thinking"]
        exact["chat_template_kwargs"] = variables
    if exact.get("n", 1) is None:
        del exact["n"]
    return exact


# The options of a call without chat template, and of one with several prompts.
RAW_OPTIONS = (
    "max_tokens",
    "stop",
    "seed",
    "logit_bias",
    "draft",
    "grammar",
    "response_format",
    "timeout",
    "include_usage",
    *LIMITS,
)
MANY_OPTIONS = (
    "max_tokens",
    "stop",
    "seed",
    "logit_bias",
    "thinking",
    "grammar",
    "response_format",
    "timeout",
    *LIMITS,
)

Function = TypeVar("Function", bound=Callable[..., Any])


def with_fields_of(options: type, names: Sequence[str] | None = None) -> Callable[[Function], Function]:
    """Let `inspect.signature` and `help` of a function show the fields of options in place of `**keywords`."""

    def decorate(function: Function) -> Function:
        shown = inspect.signature(function)
        own = [each for each in shown.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        wanted = [each for each in fields(options) if each.name not in shown.parameters]
        added = [
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for each in wanted
            if names is None or each.name in names
        ]
        function.__signature__ = shown.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return function

    return decorate
