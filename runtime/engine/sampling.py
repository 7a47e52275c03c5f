"""How the next token is chosen: Qwen3.5's presets, what a file or a request says otherwise, seeds and grammars.

Source of the presets: the model cards of Qwen3.5 ("Best Practices", the general tasks of each mode).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from qwen35_gguf.errors import GrammarError, MessageError
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.llama.samplers import Chain, Grammar, schema_grammar

# Any JSON object, for response_format {"type": "json_object"}.
JSON_OBJECT = {"type": "object"}
MAX_SEED = 0xFFFFFFFE  # the next one means "random" to llama.cpp


@dataclass(frozen=True)
class Sampling:
    """What is done to the logits, in this order.

    Attributes:
        presence_penalty: taken from the logit of a token that is among the last 1,024.
        frequency_penalty: taken as often as it is among them.
        repeat_penalty: divides a positive logit of such a token and multiplies a negative one; 1 does nothing.
        top_k: only so many of the best stay; 0 keeps all.
        top_p: only the best stay that together have this probability.
        min_p: only those stay that have this part of the best one's probability.
        temperature: 0 takes the best.

    """

    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 20
    min_p: float = 0.0
    presence_penalty: float = 1.5
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0


THINKING = Sampling()
NOT_THINKING = Sampling(temperature=0.7, top_p=0.8)
# Continuing a text has no preset of Qwen's; penalties would keep it from repeating what it has to repeat.
RAW = Sampling(presence_penalty=0.0)

# The metadata's names; those of `Sampling` are OpenAI's.
STORED = {
    "temperature": "temp",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "penalty_repeat",
}
LIMITS = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1 << 30),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repeat_penalty": (0.01, 100.0),
}


def choose(preset: Sampling, metadata: Mapping[str, str], wanted: Mapping[str, float | None]) -> Sampling:
    """Combine a preset, what the file says (`general.sampling.*`) and what the request says; the later ones win.

    Temperature 0 takes the best token as it is: the penalties of the preset are then left out.

    Raises:
        MessageError: the request has an unknown option, or a value out of its range.

    """
    stored = {ours: metadata.get(f"general.sampling.{theirs}") for ours, theirs in STORED.items()}
    known: dict[str, Any] = {key: _number(key, text) for key, text in stored.items() if text is not None}
    result = replace(preset, **known)
    given = {key: value for key, value in wanted.items() if value is not None}
    unknown = set(given) - {field.name for field in fields(Sampling)}
    if unknown:
        raise MessageError(f"{', '.join(sorted(unknown))}: not an option of sampling; use {', '.join(LIMITS)}")
    for key, value in given.items():
        low, high = LIMITS[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise MessageError(f"{key}: {value!r} is not a number from {low} to {high}")
    if given.get("temperature") == 0:
        result = replace(result, presence_penalty=0.0, frequency_penalty=0.0, repeat_penalty=1.0)
    exact: dict[str, Any] = {key: int(value) if key == "top_k" else float(value) for key, value in given.items()}
    return replace(result, **exact)


def _number(key: str, text: str) -> float | int:
    try:
        return int(text) if key == "top_k" else float(text)
    except ValueError:
        return getattr(THINKING, key)  # type: ignore[no-any-return]


def new_seed(seed: int | None) -> int:
    """Return a seed for llama.cpp: the given one, or a random one.

    Raises:
        MessageError: it is not a whole number from 0.

    """
    if seed is None:
        return secrets.randbelow(MAX_SEED)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise MessageError(f"seed: {seed!r} is not a whole number from 0")
    return seed % MAX_SEED


def grammar_text(response_format: Mapping[str, Any] | None, grammar: str | None) -> str | None:
    """Return the grammar that a request asks for, None if it asks for none.

    `response_format` is OpenAI's: `{"type": "text"}`, `{"type": "json_object"}`, or `{"type": "json_schema",
    "json_schema": {"schema": {...}}}`; llama.cpp's `{"type": "json_object", "schema": {...}}` is taken, too. `grammar`
    is GBNF.

    Raises:
        GrammarError: both are given, or the schema is none.

    """
    if response_format is None:
        return grammar
    if grammar is not None:
        raise GrammarError("response_format and grammar: give one of them")
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        schema = response_format.get("schema", JSON_OBJECT)
    elif kind == "json_schema":
        inner = response_format.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else response_format.get("schema")
    else:
        raise GrammarError(f"response_format: {kind!r} is not text, json_object or json_schema")
    if not isinstance(schema, Mapping):
        raise GrammarError("response_format: has no JSON schema; give an object")
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError):
        raise GrammarError("response_format: the schema is not JSON") from None
    return schema_grammar(text)


class Sampler(Closing):
    """Chooses tokens by the settings and, once `constrain` was called, by the grammar."""

    def __init__(self, model: Model, settings: Sampling, seed: int, grammar: str | None = None) -> None:
        """Build the chain and compile the grammar.

        Raises:
            GrammarError: the grammar cannot be parsed.

        """
        self._grammar = Grammar(model, grammar) if grammar is not None else None
        self._constrained = False
        self._chain = Chain(
            model.n_vocab,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            min_p=settings.min_p,
            presence=settings.presence_penalty,
            frequency=settings.frequency_penalty,
            repeat=settings.repeat_penalty,
            seed=seed,
        )

    def close(self) -> None:
        """Free both."""
        self._chain.close()
        if self._grammar is not None:
            self._grammar.close()

    @property
    def waits(self) -> bool:
        """Whether there is a grammar that is not yet in force."""
        return self._grammar is not None and not self._constrained

    def constrain(self) -> None:
        """Let the grammar, if there is one, hold from the next token on."""
        self._constrained = self._grammar is not None

    def sample(self, context: Context, row: int) -> int:
        """Choose a token from a row of the context's last call, and count it."""
        logits = context.logits(row)
        if self._constrained and self._grammar is not None:
            token = self._grammar.choose(self._chain, logits)
            self._grammar.accept(token)
        else:
            token = self._chain.choose(logits)
        self._chain.accept(token)
        return token

    def accept(self, token: int) -> None:
        """Count a token that was not sampled."""
        self._chain.accept(token)
