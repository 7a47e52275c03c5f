"""Read the fields that OpenAI's APIs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen35_gguf.runtime.chat.openai_types import Timings
from qwen35_gguf.server.api_error import bad_request

# Fields that are options of the library, with the same names and meanings.
SAMPLING = (
    "stop",
    "logit_bias",
    "response_format",
    "grammar",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
)
SEEDS = 1 << 64


def present(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request that are given; null is as if a field were left out."""
    return {name: value for name, value in body.items() if value is not None}


def refuse(given: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Refuse fields by name.

    Raises:
        ApiError: one of `reasons` is given; it says why it is not supported.

    """
    for name, reason in reasons.items():
        if name in given:
            raise bad_request(f"{name}: {reason}", name)


def flag_of(body: Mapping[str, Any], name: str, param: str | None = None) -> bool:
    """Return a field that is true or false; false if it is left out.

    Raises:
        ApiError: it is something else.

    """
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise bad_request(f"{name}: is neither true nor false; use one of them", param or name)
    return bool(value)


def seed_of(seed: Any) -> Any:
    """Return a seed as the library takes it: the API has negative ones, too."""
    return seed % SEEDS if isinstance(seed, int) and not isinstance(seed, bool) else seed


def finish_of(reason: str | None) -> str | None:
    """Return why an answer ended in the API's words: it has none for loops, which `timings.loop` names."""
    return "length" if reason == "loop" else reason


def with_miss(usage: dict[str, Any], timings: Timings | None) -> dict[str, Any]:
    """Return a usage with what changed of the prompt, and what that cost; as it is if nothing did."""
    return usage if timings is None or not timings.miss else usage | {"miss": timings.miss}


def usage_wanted(given: Mapping[str, Any]) -> bool:
    """Return whether a stream ends with a piece for the usage.

    Raises:
        ApiError: `stream_options` is malformed.

    """
    options = given.get("stream_options", {})
    if not isinstance(options, Mapping):
        raise bad_request("stream_options: is not an object; use include_usage in one", "stream_options")
    return flag_of(options, "include_usage", "stream_options")
