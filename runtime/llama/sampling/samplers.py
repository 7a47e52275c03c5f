"""llama.cpp's samplers: from the logits of a row to a token."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qwen35_gguf.errors import NonFiniteError
from qwen35_gguf.runtime.llama.batch import FloatArray
from qwen35_gguf.runtime.llama.handle import Handle
from qwen35_gguf.runtime.llama.library import Closing, library
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.llama.sampling.gumbel import choose_by_noise

PENALTY_WINDOW = 1024
DRY_BREAKERS = (b"\n", b":", b'"', b"*")  # llama.cpp's defaults: a repetition ends at them
BLOCK = 64  # logits, at equal distances, whose maximum stands for them in the preselection
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


def preselect(logits: FloatArray, count: int) -> npt.NDArray[np.intp]:
    """Find a few candidates that certainly include the `count` highest logits.

    The `count`-th highest of the blocks' maxima is a bound that at least `count` logits reach. Comparing maxima takes
    a tenth of the time that llama.cpp needs to sort 248,320 candidates.
    """
    whole = len(logits) // BLOCK * BLOCK
    maxima = logits[:whole].reshape(BLOCK, -1).max(axis=0)
    if count >= len(maxima):
        return np.arange(len(logits))
    _check_finite(maxima.max())
    bound = np.partition(maxima, len(maxima) - count)[len(maxima) - count]
    # Of masked logits only the finite ones are candidates.
    found: npt.NDArray[np.intp] = np.flatnonzero(logits >= bound if bound > -np.inf else logits > bound)
    return found


class Dry(NamedTuple):
    """The penalty for what would continue a repetition (DRY), as llama.cpp has it; see `engine.sampling.Sampling`."""

    model: Model
    multiplier: float
    base: float
    allowed_length: int
    last_n: int

    def sampler(self, lib: Any) -> Any:
        """Make the sampler of llama.cpp."""
        breakers = (ctypes.c_char_p * len(DRY_BREAKERS))(*DRY_BREAKERS)
        last_n = self.last_n if self.last_n >= 0 else int(lib.llama_model_n_ctx_train(self.model.pointer))
        numbers = (self.multiplier, self.base, self.allowed_length, last_n)
        return lib.llama_sampler_init_dry(self.model.vocabulary.pointer, *numbers, breakers, len(DRY_BREAKERS))


class Chain(Closing):
    """llama.cpp's samplers one after the other, over the candidates that can matter.

    Penalties apply to the last 1,024 tokens. Where they only lower a logit, the best `top_k` after them are among the
    best `top_k + 1024` before: the others are left out in advance, which does not change the result.

    Of what is left a token is chosen by noise, and not by llama.cpp's generator: see `gumbel`.

    Attributes:
        drafts: whether it chooses drafts of another model as it would choose tokens: nothing in it changes by that.

    """

    def __init__(
        self,
        n_vocab: int,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        presence: float,
        frequency: float,
        repeat: float,
        seed: int,
        top_n_sigma: float = 0.0,
        xtc: tuple[float, float] = (0.0, 0.0),
        dry: Dry | None = None,
    ) -> None:
        """Build a chain; temperature 0 is greedy. `xtc` is a probability and a threshold."""
        self._library = lib = library()
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self._handle = Handle(self, lib.llama_sampler_chain_init(params), lib.llama_sampler_free)
        self._seed, self._place = seed, 0
        self._best_only = temperature <= 0
        self.drafts = temperature > 0 and xtc[0] <= 0  # XTC has a generator of its own
        self._keep = 1 if self._best_only else top_k  # 0: all
        added = []
        if presence or frequency or repeat != 1.0:
            self._best_only = False
            lowering = presence >= 0 and frequency >= 0 and repeat >= 1
            self._keep = self._keep + PENALTY_WINDOW if self._keep and lowering else 0
            added.append(lib.llama_sampler_init_penalties(n_vocab, PENALTY_WINDOW, repeat, frequency, presence))
        if dry is not None:  # what it lowers may be anywhere
            self._best_only, self._keep = False, 0
            added.append(dry.sampler(lib))
        if temperature <= 0:
            added.append(lib.llama_sampler_init_greedy())
        else:
            if top_n_sigma > 0:  # the deviation is that of all logits
                self._keep = 0
                added.append(lib.llama_sampler_init_top_n_sigma(top_n_sigma))
            if top_k > 0:
                added.append(lib.llama_sampler_init_top_k(top_k))
            if top_p < 1:
                added.append(lib.llama_sampler_init_top_p(top_p, 1))
            if min_p > 0:
                added.append(lib.llama_sampler_init_min_p(min_p, 1))
            if xtc[0] > 0:
                added.append(lib.llama_sampler_init_xtc(*xtc, 1, seed))
            added.append(lib.llama_sampler_init_temp(temperature))
        for sampler in added:
            lib.llama_sampler_chain_add(self.pointer, sampler)

    def close(self) -> None:
        """Free the samplers."""
        self._handle.close()

    @property
    def pointer(self) -> Any:
        """`llama_sampler_p`; errors as of `Handle.pointer`."""
        return self._handle.pointer

    def choose(self, logits: FloatArray, ids: npt.NDArray[np.intp] | None = None, *, ahead: int = 0) -> int:
        """Choose a token, and `accept` it afterwards; the same one again until then.

        Args:
            logits: (n_vocab,) float32, of which -inf is never chosen.
            ids: the tokens to choose from; None: all.
            ahead: tokens that come before it, and are not accepted yet.

        Raises:
            NonFiniteError: the largest logit is NaN, or infinite.

        """
        if self._best_only:
            best = int(logits.argmax() if ids is None else ids[logits[ids].argmax()])  # the first NaN, if there is one
            _check_finite(logits[best])
            return best
        if ids is None:
            ids = preselect(logits, self._keep) if self._keep else np.arange(len(logits))
        candidates = np.empty(len(ids), CANDIDATE)
        candidates["id"], candidates["logit"] = ids, logits[ids]
        _check_finite(candidates["logit"].max(initial=-np.inf if len(ids) else np.nan))
        array = candidate_array(self._library, candidates)
        self._library.llama_sampler_apply(self.pointer, ctypes.byref(array))
        if array.selected >= 0:
            return int(array.data[array.selected].id)
        left = remaining(array, candidates)
        return int(left["id"][choose_by_noise(left["logit"], self._seed, self._place + ahead, left["id"])])

    def accept(self, token: int) -> None:
        """Record a token for the penalties."""
        self._place += 1
        self._library.llama_sampler_accept(self.pointer, token)


def _check_finite(best: float) -> None:
    """Refuse the largest logit if it is NaN, or infinite; where everything is masked it is -inf."""
    if not best < np.inf:
        raise NonFiniteError("logits: are not finite; check the weights with `qwen35 lint`")


def candidate_array(lib: Any, candidates: npt.NDArray[Any]) -> Any:
    """Wrap an array of `CANDIDATE` for llama.cpp, which may reorder it."""
    array = lib.llama_token_data_array()
    array.data = candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
    array.size, array.selected, array.sorted = len(candidates), -1, False
    return array


def remaining(array: Any, candidates: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the candidates that llama.cpp left: some in a row, which it may have sorted."""
    first = ctypes.addressof(array.data.contents) - candidates.ctypes.data
    start = first // CANDIDATE.itemsize
    return candidates[start : start + array.size]
