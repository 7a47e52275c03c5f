"""How much errors at each token matter: the divergence that noise in a token's residual stream causes.

Few tokens decide most of the divergence of a quantized model: what is certain stays so, whatever a layer adds. Noise in
proportion to the stream is added after every layer at every SPACING-th token; the divergence from there up to the next
such token is this token's effect. As many passes over the text reach all tokens, without a gradient of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import atomic_file
from qwen35_gguf.evaluation.collect_imatrix import is_residual
from qwen35_gguf.quant.divergence import compare, log_softmax
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.eval_callback import EvalCallback, view
from qwen35_gguf.runtime.llama.model import Model

Array = npt.NDArray[np.float64]

SPACING = 8  # tokens
NOISE = 0.02  # of the stream's root mean square
PIECE = 256  # tokens that are evaluated with an empty context, so that their logits fit into memory
ROWS = 64  # of logits that are compared in one step
SAVE_EVERY = 16  # pieces
HIGHEST = 0.99  # effects above this quantile count as much as it: few tokens would decide everything


@dataclass(frozen=True)
class TokenEffects:
    """What errors at the tokens of a text change, (tokens,) each.

    Attributes:
        stream: errors in the residual stream: the divergence that follows from noise there, in nats; NaN: not measured.
        output: errors in the logits: 1 minus the sum of the squared probabilities of the next token.

    """

    stream: Array
    output: Array

    def weights(self) -> TokenEffects:
        """Return what tokens count in sums, 1 in the mean."""
        return TokenEffects(*(_weights(effect) for effect in (self.stream, self.output)))


def _weights(effect: Array) -> Array:
    limited = np.minimum(effect, np.quantile(effect, HIGHEST))
    mean = limited.mean()
    return limited / mean if mean > 0 else np.ones_like(effect)


class _Noise:
    """Adds noise to the stream of some tokens of a piece, the same in every run."""

    def __init__(self) -> None:
        self._tokens: slice | None = None  # None: nothing is changed
        self._seed = self._nodes = 0
        self.callback = EvalCallback(lambda kind, node: self._tokens is not None and is_residual(kind, node), self._add)

    def begin(self, tokens: slice | None, seed: int) -> None:
        """Choose the tokens of the next evaluation."""
        self._tokens, self._seed, self._nodes = tokens, seed, 0

    def _add(self, _kind: str, node: Any) -> None:
        stream = view(node, np.float32)[0, 0][self._tokens]
        random = np.random.default_rng((self._seed, self._nodes))
        size = np.sqrt(np.square(stream).mean(axis=1, keepdims=True))
        stream += np.float32(NOISE) * size * random.standard_normal(stream.shape, np.float32)
        self._nodes += 1


def measure(
    model: Model,
    ids: Sequence[int],
    begun: TokenEffects | None = None,
    *,
    threads: int = 1,
    spacing: int = SPACING,
    save: Callable[[TokenEffects], None] = lambda _effects: None,
    advance: Callable[[int, int], None] = lambda _done, _all: None,
) -> TokenEffects:
    """Measure the effects of the tokens of a text.

    Args:
        model: the less quantized, the better; its weights are on the CPU.
        ids: of the tokens.
        begun: what an interrupted run measured of them.
        threads: of the evaluation.
        spacing: see the top of this file.
        save: is called with what is measured so far, from time to time and at the end.
        advance: is called with the number of tokens that are done, and the number of all.

    Raises:
        ModelError: the model cannot be evaluated.

    """
    found = begun or TokenEffects(np.full(len(ids), np.nan), np.full(len(ids), np.nan))
    noise = _Noise()
    spec = ContextSpec(PIECE, n_batch=PIECE, n_threads=threads, n_outputs=PIECE)
    with Context(model, spec, eval_callback=noise.callback) as context:

        def logits(piece: Sequence[int]) -> npt.NDArray[np.float32]:
            context.clear()
            context.evaluate(piece, 0, outputs=len(piece))
            return context.last_logits(len(piece))

        for number, start in enumerate(range(0, len(ids), PIECE), 1):
            piece = ids[start : start + PIECE]
            own = slice(start, start + len(piece))
            if not np.isnan(found.stream[own]).any():
                continue
            noise.begin(None, start)
            wanted = log_softmax(logits(piece))
            found.output[own] = 1 - _by_rows(lambda rows: np.exp(2 * rows).sum(axis=1), wanted)
            stream = np.zeros(len(piece))
            for phase in range(min(spacing, len(piece))):
                noise.begin(slice(phase, None, spacing), start)
                divergence = _by_rows(_divergence, wanted, logits(piece))
                stream[phase::spacing] = np.add.reduceat(divergence[phase:], np.arange(0, len(piece) - phase, spacing))
            found.stream[own] = np.maximum(stream, 0)
            if number % SAVE_EVERY == 0:
                save(found)
            advance(start + len(piece), len(ids))
    save(found)
    return found


def _by_rows(compute: Callable[..., npt.NDArray[Any]], *several: npt.NDArray[np.float32]) -> Array:
    parts = [compute(*(one[i : i + ROWS] for one in several)) for i in range(0, len(several[0]), ROWS)]
    return np.concatenate(parts).astype(np.float64)


def _divergence(wanted: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> Array:
    return compare(wanted, logits, np.zeros(len(wanted), np.int64))[0]


def write(path: Path, digest: str, effects: TokenEffects) -> None:
    """Keep what was measured of a text that has this digest, as a whole or not at all.

    Raises:
        OutputError: the file cannot be written.

    """
    with atomic_file(path) as file:
        np.savez(file, digest=np.array(digest), stream=effects.stream, output=effects.output)


def read(path: Path, digest: str, tokens: int) -> TokenEffects | None:
    """Read what `write` kept of a text with this digest and number of tokens; None if there is nothing."""
    try:
        with np.load(path, allow_pickle=False) as data:
            effects = TokenEffects(data["stream"], data["output"])
            same = str(data["digest"]) == digest and effects.stream.shape == effects.output.shape == (tokens,)
            return effects if same else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
