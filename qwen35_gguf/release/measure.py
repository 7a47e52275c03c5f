"""Measure the KL divergence of a release's models from the unquantized weights, for its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qwen35_gguf.evaluation import kl_divergence
from qwen35_gguf.evaluation.texts.packaged import EVALUATION, packaged_text, read_text
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.quant.divergence import Divergence
from qwen35_gguf.release import state as states
from qwen35_gguf.release.state import Figures, State
from qwen35_gguf.runtime.cpu_threads import default_threads

BYTES_PER_TOKEN = 3  # of text in many languages; an estimate is enough for the free space
BYTES_PER_LOGIT = 2


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
    """Compare models of a folder with a reference; each result is recorded when it is known.

    Args:
        names: of the models, before they are split.
        reference: the weights in BF16, F16 or F32, as a GGUF (the first shard).
        folder: of the models.
        state: gets the figures.
        text: what is evaluated; by default the packaged text.
        scratch: a folder for the reference's logits.
        jobs: threads; 0 for one for each physical core.
        say: is called with the results.

    Raises:
        TextError: the text cannot be read or is too short.
        ModelError: a model cannot be loaded.

    """
    threads = jobs or default_threads()
    logits = scratch / "reference.logits"
    say(f"measuring {len(names)} files against {reference.name}")
    kl_divergence.save_reference(reference, splitter(text, EVALUATION), logits, threads=threads)
    for name in names:
        found = kl_divergence.evaluate(states.parts_of(folder, name)[0], logits, threads=threads)
        state.figures[name] = _figures(found)
        states.save(folder, state)
        say(f"{name}: KL divergence {found.mean.value:.5f}, same top token {100 * found.same_top.value:.2f} %")
    logits.unlink()


def _figures(found: Divergence) -> Figures:
    return Figures(
        mean=found.mean.value,
        low=found.mean.low,
        high=found.mean.high,
        same_top=found.same_top.value,
        tokens=found.tokens,
    )


def logits_bytes(text: Path | None, vocabulary: int) -> int:
    """Estimate the size of the reference's logits: those of half the tokens."""
    content = read_text(text) if text is not None else packaged_text(EVALUATION, None)
    return len(content.encode()) // BYTES_PER_TOKEN // 2 * BYTES_PER_LOGIT * vocabulary
