"""Measure the KL divergence of a release's models from the unquantized weights, for its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qwen35_gguf.atomic_file import discard
from qwen35_gguf.errors import MissingDependencyError, TextError
from qwen35_gguf.evaluation import kl_divergence
from qwen35_gguf.evaluation.texts.packaged import EVALUATION, packaged_text
from qwen35_gguf.evaluation.texts.tokenized import splitter
from qwen35_gguf.quant.divergence import Divergence
from qwen35_gguf.release import state as states
from qwen35_gguf.release.state import Figures, State
from qwen35_gguf.runtime.cpu_threads import default_threads
from qwen35_gguf.runtime.llama.install import installed_runtime

CHUNK = 512  # tokens
BYTES_PER_TOKEN = 3  # of text in many languages; an estimate is enough for the free space
BYTES_PER_LOGIT = 2


def measure(
    names: Sequence[str],
    reference: Path,
    folder: Path,
    state: State,
    *,
    text: Path | Sequence[Path] | None,
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
        text: files with what is evaluated; by default the packaged text.
        scratch: a folder for the reference's logits.
        jobs: threads; 0 for one for each physical core.
        say: is called with the results.

    Raises:
        TextError: the text cannot be read or is too short.
        ModelError: a model cannot be loaded.

    """
    threads = jobs or default_threads()
    logits = scratch / "reference.logits"
    say(f"measuring {len(names)} {'file' if len(names) == 1 else 'files'} against {reference.name}")
    kl_divergence.save_reference(reference, splitter(text, EVALUATION), logits, chunk=CHUNK, threads=threads)
    for name in names:
        found = kl_divergence.evaluate(states.parts_of(folder, name)[0], logits, threads=threads)
        state.figures[name] = _figures(found)
        states.save(folder, state)
        say(f"{name}: KL divergence {found.mean.value:.5f}, same top token {100 * found.same_top.value:.2f} %")
    discard(logits)


def _figures(found: Divergence) -> Figures:
    return Figures(
        mean=found.mean.value,
        low=found.mean.low,
        high=found.mean.high,
        same_top=found.same_top.value,
        tokens=found.tokens,
    )


def check(text: Path | Sequence[Path] | None) -> None:
    """Refuse what would be found after the conversion: a text that cannot be read or is too short, no runtime.

    Raises:
        TextError: a text cannot be read, or has fewer bytes than a chunk has tokens.
        MissingDependencyError: llama-cpp-python is not installed.

    """
    files = [text] if isinstance(text, Path) else list(text or ())
    splitter(files, EVALUATION)
    size = sum(path.stat().st_size for path in files)
    if files and size < CHUNK and not any(path.suffix == ".gz" for path in files):
        raise TextError(f"{files[0]}: has {size} bytes, less than a chunk of {CHUNK} tokens; use more text")
    if installed_runtime() is None:
        raise MissingDependencyError(
            "llama-cpp-python is needed to measure; `qwen35 setup` installs it, or leave it out with --no-measure"
        )


def logits_bytes(text: Path | Sequence[Path] | None, vocabulary: int) -> int:
    """Estimate the size of the reference's logits: those of half the tokens."""
    files = [text] if isinstance(text, Path) else list(text or ())
    size = sum(path.stat().st_size for path in files) if files else len(packaged_text(EVALUATION, None).encode())
    return size // BYTES_PER_TOKEN // 2 * BYTES_PER_LOGIT * vocabulary
