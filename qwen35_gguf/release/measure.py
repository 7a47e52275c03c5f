"""The divergence of a release's models from the unquantized weights, for its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qwen35_gguf.evaluation import kl_divergence
from qwen35_gguf.evaluation.texts.packaged import EVALUATION, packaged_text, read_text
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.release import state as states
from qwen35_gguf.release.state import State
from qwen35_gguf.runtime.llama.library import default_threads

BYTES_A_TOKEN = 3  # of a text in many languages; for how much room is needed it need not be exact
BYTES_A_LOGIT = 2


def measure(
    names: Sequence[str],
    reference: Path,
    folder: Path,
    state: State,
    *,
    text: Path | None,
    scratch: Path,
    jobs: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Compare models of a folder with a reference; each result is kept as soon as it is there.

    Args:
        names: of the models, unsharded.
        reference: the weights in BF16, F16 or F32, as a GGUF (the first shard).
        folder: of the models.
        state: takes the figures.
        text: what is evaluated; by default a text that comes with the package.
        scratch: a folder for the reference's logits.
        jobs: threads.
        say: is told what is found.

    Raises:
        TextError: the text cannot be read or is too short.
        ModelError: a model cannot be loaded.

    """
    threads = jobs or default_threads()
    base = scratch / "reference.logits"
    say(f"measuring {len(names)} files against {reference.name}")
    kl_divergence.save_reference(reference, splitter(text, EVALUATION), base, threads=threads)
    for name in names:
        figures = kl_divergence.evaluate(states.parts_of(folder, name)[0], base, threads=threads)
        state.figures[name] = as_figures(figures)
        states.save(folder, state)
        say(f"{name}: divergence {figures.mean.value:.5f}, same top {100 * figures.same_top.value:.2f} %")
    base.unlink()


def as_figures(found: Any) -> dict[str, float]:
    """Take from a `Divergence` what a card shows."""
    return {
        "mean": found.mean.value,
        "low": found.mean.low,
        "high": found.mean.high,
        "same_top": found.same_top.value,
        "tokens": found.tokens,
    }


def logits_bytes(text: Path | None, vocabulary: int) -> int:
    """Guess how much room the reference's logits take: those of half the tokens."""
    content = read_text(text) if text is not None else packaged_text(EVALUATION, None)
    return len(content.encode()) // BYTES_A_TOKEN // 2 * BYTES_A_LOGIT * vocabulary
