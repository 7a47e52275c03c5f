"""How an answer is generated; checked when it is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.engine.drafts.draft_depth import Depth
from qwen35_gguf.runtime.engine.sampling import LIMITS, WHOLE
from qwen35_gguf.runtime.engine.token_mask import Grammar
from qwen35_gguf.runtime.field_checks import (
    FOREVER,
    INT32,
    Check,
    anything,
    check_fields,
    checked,
    flag,
    mapping,
    number,
    optional,
    refuse,
    text,
    texts,
    whole,
)
from qwen35_gguf.runtime.options.checks import depth, of_template

MAX_CHOICES = 128
MAX_LOGPROBS = 20
BIAS = 100.0
MAX_DIGITS = 10  # of the id of a token
STOP = "a text or a list of texts, none of them empty"


def _sampled(name: str) -> Check:
    low, high = LIMITS[name]
    return optional(whole(int(low), int(high)) if name in WHOLE else number(low, high))


def _biases(name: str, value: Any) -> dict[int, float]:
    """Check a bias for each of some tokens; in JSON their ids are texts."""
    if isinstance(value, _Biases):
        return value
    if not isinstance(value, Mapping):
        raise refuse(name, value, "an object with ids of tokens and numbers")
    bias, index = number(-BIAS, BIAS), whole(0)
    found = _Biases()
    for token, amount in value.items():
        digits = isinstance(token, str) and len(token) <= MAX_DIGITS and token.isdecimal() and token.isascii()
        known = int(token) if digits else token
        if not (type(known) is int and 0 <= known <= INT32):
            known = index(f"{name}: token", known)
        good = type(amount) in (int, float) and -BIAS <= amount <= BIAS
        found[known] = float(amount) if good else bias(f"{name}[{known}]", amount)
    return found


class _Biases(dict[int, float]):
    """Checked ones: options are copied for each answer, and there may be a bias for every token."""


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
        stop_loops: end thinking that goes round in circles, as a `thinking_budget` does, and an answer that does, with
            the finish reason "loop"; by default as of the model. See `chat.loop_detector`.
        template_options: of the file's chat template, such as `preserve_thinking`: what it reads beside the messages
            and tools; `enable_thinking` in it is `thinking`. As a keyword also `chat_template_kwargs`.
        reasoning_effort: such as "low", for a template that reads it; others do not get it.
        tools: OpenAI-style functions that may be called.
        tool_choice: "auto", "none", "required", or `{"type": "function", "function": {"name": ...}}`.
        parallel_tool_calls: an answer may have more than one call; by default it may.
        include_usage: give the usage in a last chunk of its own, without choices, as OpenAI's `stream_options` does; by
            default it is in the chunk with the finish reason, and if False in none.
        timeout: seconds that the request may take, waiting for other calls and reading included.
        cache_scope: what is known of earlier prompts is reused only if they had the same scope, such as the name of a
            user: neither its time nor its counts then show what others asked.
        temperature: see `engine.sampling.Sampling`, as the fields that follow; by default those of the file, else those
            that Qwen recommends with thinking and without.
        top_p: see there.
        top_k: see there.
        min_p: see there.
        presence_penalty: see there.
        frequency_penalty: see there.
        repeat_penalty: see there.
        top_n_sigma: see there.
        xtc_probability: see there.
        xtc_threshold: see there.
        dry_multiplier: see there.
        dry_base: see there.
        dry_allowed_length: see there.
        dry_penalty_last_n: see there.

    Raises:
        MessageError: a value is malformed.

    """

    max_tokens: int | None = checked(optional(whole()))
    stop: tuple[str, ...] = checked(texts(STOP), ())
    seed: int | None = checked(optional(whole(0, (1 << 64) - 1)))
    n: int = checked(whole(1, MAX_CHOICES), 1)
    logit_bias: Mapping[int, float] | None = checked(optional(_biases))
    draft: Depth | None = checked(optional(depth))
    logprobs: bool | None = checked(optional(flag))
    top_logprobs: int | None = checked(optional(whole(0, MAX_LOGPROBS)))
    grammar: str | Grammar | None = checked(optional(lambda n, v: v if isinstance(v, Grammar) else text(n, v)))
    response_format: Any = checked(anything)
    thinking: bool | None = checked(optional(flag))
    thinking_budget: int | None = checked(optional(whole()))
    stop_loops: bool | None = checked(optional(flag))
    template_options: Mapping[str, Any] | None = checked(optional(of_template))
    reasoning_effort: str | None = checked(optional(text))
    tools: Any = checked(anything)
    tool_choice: Any = checked(anything)
    parallel_tool_calls: bool | None = checked(optional(flag))
    timeout: float | None = checked(optional(number(0, FOREVER, above=True)))
    include_usage: bool | None = checked(optional(flag))
    cache_scope: str | None = checked(optional(text))
    temperature: float | None = checked(_sampled("temperature"))
    top_p: float | None = checked(_sampled("top_p"))
    top_k: int | None = checked(_sampled("top_k"))
    min_p: float | None = checked(_sampled("min_p"))
    presence_penalty: float | None = checked(_sampled("presence_penalty"))
    frequency_penalty: float | None = checked(_sampled("frequency_penalty"))
    repeat_penalty: float | None = checked(_sampled("repeat_penalty"))
    top_n_sigma: float | None = checked(_sampled("top_n_sigma"))
    xtc_probability: float | None = checked(_sampled("xtc_probability"))
    xtc_threshold: float | None = checked(_sampled("xtc_threshold"))
    dry_multiplier: float | None = checked(_sampled("dry_multiplier"))
    dry_base: float | None = checked(_sampled("dry_base"))
    dry_allowed_length: int | None = checked(_sampled("dry_allowed_length"))
    dry_penalty_last_n: int | None = checked(_sampled("dry_penalty_last_n"))

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
    if "chat_template_kwargs" in exact:
        given = exact.pop("chat_template_kwargs")
        found = {} if given is None else of_template("chat_template_kwargs", given)
        if exact.get("template_options") not in (None, found):
            raise MessageError("template_options, chat_template_kwargs: are two names of one option; give one of them")
        exact["template_options"] = found
    given = exact.get("template_options")
    if isinstance(given, Mapping) and "enable_thinking" in given:
        variables = dict(given)
        if exact.setdefault("thinking", variables.pop("enable_thinking")) is None:
            del exact["thinking"]
        exact["template_options"] = variables
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
    "cache_scope",
    "stop_loops",
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
    "cache_scope",
    "stop_loops",
    *LIMITS,
)
