"""Random choice by noise that depends on the seed, the place and the token alone.

The token with the largest logit + noise is a sample of the softmax, if the noise of each token is Gumbel-distributed
(Gumbel 1954). Two similar distributions choose the same token with the same noise nearly as often as is possible at
all. So what the MTP head drafts is often what the main model samples, also at a temperature, and the text does not
depend on the drafts (Daliri, Musco, Suresh: "Coupling without communication and drafter-invariant speculative
decoding", 2024).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_WORD = (1 << 64) - 1
_HALF = 0xFFFFFFFF
MANY = 4096  # candidates of which most are left out by a test in single precision
SLACK = np.float32(1.001)  # of that test


def gumbel_noise(seed: int, place: int, ids: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return noise for tokens.

    Args:
        seed: of the text.
        place: number of the token in it.
        ids: (n,) of tokens.

    Returns:
        (n,) float64, with 32 bits of randomness.

    """
    return _noise(_hashed(seed, place, ids))


def choose_by_noise(logits: npt.NDArray[Any], seed: int, place: int, ids: npt.NDArray[Any]) -> int:
    """Return the number of the candidate with the largest logit + noise.

    Args:
        logits: (n,) of candidates.
        seed: see `gumbel_noise`.
        place: see there.
        ids: see there.

    """
    if len(ids) <= MANY:
        return int((logits + gumbel_noise(seed, place, ids)).argmax())
    hashed = _hashed(seed, place, ids)
    high = np.flatnonzero(logits > logits.max() - 1)
    bound = (logits[high] + _noise(hashed[high])).max()
    # Noise is -log(-log(u)), and -log(u) is at least 1 - u: what fails this test is below the bound.
    rest = (~hashed).astype(np.float32) * np.float32(2.0**-32)
    few = np.flatnonzero(rest <= SLACK * np.exp(logits - np.float32(bound)))
    return int(few[(logits[few] + _noise(hashed[few])).argmax()])


def _noise(hashed: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    uniform = (hashed + 0.5) * 2.0**-32  # in (0, 1): the middle of one of 2 ** 32 parts
    found: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return found


def _hashed(seed: int, place: int, ids: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    key = _mixed(_mixed(seed) ^ place)
    hashed = ids.astype(np.uint32)
    hashed *= np.uint32(0x9E3779B1)
    hashed ^= np.uint32(key & _HALF)
    _mix(hashed)
    hashed ^= np.uint32(key >> 32)
    _mix(hashed)
    return hashed


def _mix(words: npt.NDArray[np.uint32]) -> None:
    """Hash 32-bit words in place: a bijection, so that no two tokens get the same noise."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        words ^= words >> np.uint32(shift)
        words *= np.uint32(factor)
    words ^= words >> np.uint32(15)


def _mixed(word: int) -> int:
    """Hash a 64-bit number: a step of SplitMix64 (Steele, Lea, Flood 2014)."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & _WORD
    return word ^ word >> 31
