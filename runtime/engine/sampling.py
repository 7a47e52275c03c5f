"""How the next token is chosen: Qwen3.5's presets, the overrides of a file or a request, seeds and grammars.

Source of the presets: the model cards of Qwen3.5 ("Best Practices", the general tasks of each mode).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.field_checks import number
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.llama.samplers import Chain, Grammar

MAX_SEED = 0xFFFFFFFE  # the next one means "random" to llama.cpp


@dataclass(frozen=True)
class Sampling:
    """What is applied to the logits, in this order.

    Attributes:
        presence_penalty: subtracted from the logit of a token that is among the last 1,024.
        frequency_penalty: subtracted for each time that it is among them.
        repeat_penalty: divides a positive logit of such a token and multiplies a negative one; 1 does nothing.
        top_k: only the N best stay; 0 keeps all.
        top_p: only the best stay, up to this total probability.
        min_p: only those stay that have at least this fraction of the best one's probability.
        temperature: 0 chooses the best.

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
# Qwen has no preset for raw text; penalties would prevent repetitions that the text needs.
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
    """Combine a preset, the file's overrides (`general.sampling.*`) and those of the request; the later ones win.

    Temperature 0 chooses the best token as it is: the penalties of the preset are then left out.

    Raises:
        MessageError: the request has an unknown option, or a value outside of its range.

    """
    stored = {ours: metadata.get(f"general.sampling.{theirs}") for ours, theirs in STORED.items()}
    known: dict[str, Any] = {key: _number(key, text) for key, text in stored.items() if text is not None}
    result = replace(preset, **known)
    given = {key: value for key, value in wanted.items() if value is not None}
    unknown = set(given) - {field.name for field in fields(Sampling)}
    if unknown:
        raise MessageError(f"{', '.join(sorted(unknown))}: not an option of sampling; use {', '.join(LIMITS)}")
    for key, value in given.items():
        number(*LIMITS[key])(key, value)
    if given.get("temperature") == 0:
        result = replace(result, presence_penalty=0.0, frequency_penalty=0.0, repeat_penalty=1.0)
    exact: dict[str, Any] = {key: int(value) if key == "top_k" else float(value) for key, value in given.items()}
    return replace(result, **exact)


def _number(key: str, text: str) -> float | int:
    """Read a number of the file; one that nobody could ask for counts as missing."""
    low, high = LIMITS[key]
    try:
        found = int(text) if key == "top_k" else float(text)
    except ValueError:
        found = math.nan
    return found if low <= found <= high else getattr(THINKING, key)


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
        """Whether there is a grammar that is not applied yet."""
        return self._grammar is not None and not self._constrained

    def constrain(self) -> None:
        """Apply the grammar, if there is one, from the next token on."""
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
