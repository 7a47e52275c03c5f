"""How the next token is chosen: Qwen3.5's presets, the overrides of a file or a request, seeds and masks.

Source of the presets: the model cards of Qwen3.5 ("Best Practices", the general tasks of each mode).
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from qwen35_gguf.errors import MessageError
from qwen35_gguf.runtime.engine.token_mask import TokenMask
from qwen35_gguf.runtime.field_checks import number
from qwen35_gguf.runtime.llama.batch import FloatArray
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.library import Closing
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.llama.sampling.samplers import Chain, Dry

MAX_SEED = 0xFFFFFFFE  # the next one means "random" to llama.cpp


@dataclass(frozen=True)
class Sampling:
    """What is applied to the logits, in this order.

    Attributes:
        presence_penalty: subtracted from the logit of a token that is among the last 1,024.
        frequency_penalty: subtracted for each time that it is among them.
        repeat_penalty: divides a positive logit of such a token and multiplies a negative one; 1 does nothing.
        dry_multiplier: of the penalty for a token that would continue what was written before (DRY); 0: none.
        dry_base: to the power of the tokens that are repeated beyond `dry_allowed_length`.
        dry_allowed_length: tokens that may be repeated without a penalty.
        dry_penalty_last_n: tokens in which repetitions are looked for; -1: all.
        top_n_sigma: only those stay whose logit is at most N standard deviations below the best; 0 keeps all.
        top_k: only the N best stay; 0 keeps all.
        top_p: only the best stay, up to this total probability.
        min_p: only those stay that have at least this fraction of the best one's probability.
        xtc_probability: with which the most probable tokens are left out (XTC); 0: never.
        xtc_threshold: all that have this probability are left out but for the least probable of them.
        temperature: 0 chooses the best.
        bias: tokens, and what is added to their logits before anything else.

    """

    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 20
    min_p: float = 0.0
    presence_penalty: float = 1.5
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    bias: tuple[tuple[int, float], ...] = ()


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
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
}
LIMITS = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1 << 30),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repeat_penalty": (0.01, 100.0),
    "top_n_sigma": (0.0, 100.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (1.0, 100.0),
    "dry_allowed_length": (1, 1 << 20),
    "dry_penalty_last_n": (-1, 1 << 30),
}
WHOLE = ("top_k", "dry_allowed_length", "dry_penalty_last_n")


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
        result = replace(result, presence_penalty=0.0, frequency_penalty=0.0, repeat_penalty=1.0, dry_multiplier=0.0)
    exact: dict[str, Any] = {key: int(value) if key in WHOLE else float(value) for key, value in given.items()}
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


@dataclass(frozen=True)
class Chosen:
    """How probable a sampled token was, by the logits with their biases, before penalties, temperature and mask.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability.
        best: the most probable tokens with theirs, best first.

    """

    token: int
    logprob: float
    best: tuple[tuple[int, float], ...]


def chosen(logits: FloatArray, token: int, top: int) -> Chosen:
    """Compute the log-probabilities of a token and of the `top` best, from logits, (n_vocab,) float32."""
    highest = logits.max()
    total = float(highest) + math.log(float(np.exp(logits - highest).sum(dtype=np.float64)))
    best = np.argpartition(logits, -top)[-top:] if top else np.empty(0, np.intp)
    best = best[np.argsort(-logits[best], kind="stable")]
    return Chosen(token, float(logits[token]) - total, tuple((int(one), float(logits[one]) - total) for one in best))


class Sampler(Closing):
    """Chooses tokens by the settings and, from some token on, among those that a mask allows.

    Attributes:
        last: how probable the token was that was sampled last; None unless that is asked for.

    """

    def __init__(
        self,
        model: Model,
        settings: Sampling,
        seed: int,
        mask: TokenMask | None = None,
        *,
        after: int | None = None,
        lead: Sequence[int] = (),
        top_logprobs: int | None = None,
    ) -> None:
        """Build the chain.

        Args:
            model: for the size of its vocabulary.
            settings: see `Sampling`.
            seed: of the random numbers.
            mask: of the answer; closed with the sampler.
            after: the token after which the mask applies; None: from the beginning.
            lead: tokens that come between that token and the masked ones.
            top_logprobs: record in `last` the probability of each token, and of the N best.

        """
        self._top = top_logprobs
        self.last: Chosen | None = None
        self._mask = mask
        self._waits = after is not None
        self._after = after
        pairs = np.fromiter(itertools.chain.from_iterable(settings.bias), np.float64).reshape(-1, 2)
        self._biased, self._bias = pairs[:, 0].astype(np.intp), pairs[:, 1].astype(np.float32)
        self._lead = list(lead) if mask is not None and after is not None else []
        dry = None
        if settings.dry_multiplier > 0:
            dry = Dry(
                model,
                settings.dry_multiplier,
                settings.dry_base,
                settings.dry_allowed_length,
                settings.dry_penalty_last_n,
            )
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
            top_n_sigma=settings.top_n_sigma,
            xtc=(settings.xtc_probability, settings.xtc_threshold),
            dry=dry,
        )

    def close(self) -> None:
        """Free both."""
        self._chain.close()
        if self._mask is not None:
            self._mask.close()

    def start(self) -> None:
        """Apply the mask from now on, whether or not its token came."""
        self._waits = False

    def sample(self, context: Context, row: int) -> int:
        """Choose a token from a row of the context's last call, and count it.

        Raises:
            GrammarError: the mask allows nothing.

        """
        logits = self._with_bias(context.logits(row))
        if self._mask is None or self._waits:
            token = self._chain.choose(logits)
        else:
            token = self._lead[0] if self._lead else self._mask.choose(self._chain, logits)
        self.accept(token)
        if self._top is not None:
            self.last = chosen(logits, token, self._top)
        return token

    def draft(self, logits: FloatArray, ahead: int) -> int:
        """Choose a draft from another model's logits, (n_vocab,) float32, as `sample` will choose a token.

        It changes nothing. With the same random numbers, similar logits mostly give the same token.

        Args:
            logits: of the MTP head.
            ahead: drafts before it.

        """
        return self._chain.choose(self._with_bias(logits), ahead=ahead) if self._chain.drafts else int(logits.argmax())

    def _with_bias(self, logits: FloatArray) -> FloatArray:
        if not len(self._biased):
            return logits
        logits = logits.copy()
        logits[self._biased] += self._bias
        return logits

    def accept(self, *tokens: int) -> None:
        """Count tokens, sampled or not."""
        for token in tokens:
            self._chain.accept(token)
            if self._mask is None:
                continue
            if self._waits:
                self._waits = token != self._after
            elif self._lead:
                del self._lead[0]
            else:
                self._mask.accept(token)

    def forced(self) -> list[int]:
        """Return tokens that certainly follow, counted like sampled ones."""
        self.last = None
        if self._mask is None or self._waits:
            return []
        found = [*self._lead] or self._mask.forced()
        self.accept(*found)
        return found
