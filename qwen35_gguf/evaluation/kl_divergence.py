"""Perplexity and KL divergence of GGUF files from a reference, chunk by chunk, with one model in memory at a time.

The reference is evaluated first; its log-probabilities are written to a file (two bytes for each token of the
vocabulary). Each of the other models is then compared with the file.

Source: llama.cpp tools/perplexity/perplexity.cpp (chunks start with an empty context; their second half is scored).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qwen35_gguf.atomic_file import check_space, disk_errors
from qwen35_gguf.errors import LogitsError, TextError
from qwen35_gguf.evaluation import logits_file
from qwen35_gguf.evaluation.logits_file import Header
from qwen35_gguf.evaluation.texts.tokenized import Split
from qwen35_gguf.quant.divergence import Accumulator, Divergence, Floats
from qwen35_gguf.runtime.context_spec import ContextSpec
from qwen35_gguf.runtime.llama.context import Context
from qwen35_gguf.runtime.llama.model import Model
from qwen35_gguf.runtime.model_files import read_model

TOKENS = "tokenizer.ggml.tokens"
N_BATCH = 512
BLOCK_ROWS = 8  # of one thread, so that a block of a large vocabulary stays in the cache

Tokens = npt.NDArray[np.int32]
Advance = Callable[[int, int], None]


def _quiet(_done: int, _all: int) -> None:
    pass


def check_vocabularies(files: Sequence[Path], reference: Path) -> None:
    """Refuse models that cannot be compared with a reference, from headers alone.

    Args:
        files: the models.
        reference: a GGUF, or a file of log-probabilities.

    Raises:
        LogitsError: a vocabulary is not that of the reference, or the file of log-probabilities is damaged.
        ModelError: a file is not a model.

    """
    known = logits_file.read_header(reference) if logits_file.is_logits(reference) else None
    wanted = None if known else read_model(reference).find(TOKENS)
    size = known.vocabulary if known else wanted.count if wanted else 0
    for file in files:
        tokens = read_model(file).find(TOKENS)
        count = tokens.count if tokens else 0
        if count != size:
            raise LogitsError(
                f"{file}: has {count} tokens, the reference {reference} has {size}; compare models of one vocabulary"
            )
        if wanted and tokens and wanted.encoded != tokens.encoded:
            raise LogitsError(
                f"{file}: has other tokens than the reference {reference}; compare models of one vocabulary"
            )


def save_reference(
    model: Path,
    split: Split,
    path: Path,
    *,
    chunk: int = 512,
    chunks: int | None = None,
    threads: int = 1,
    advance: Advance = _quiet,
) -> Header:
    """Evaluate a reference and write its log-probabilities.

    Args:
        model: the reference's GGUF.
        split: tokenizes the text.
        path: the file to be written.
        chunk: tokens of a chunk, which starts with an empty context; the second half is scored.
        chunks: number of chunks at most; by default the whole text.
        threads: of the evaluation.
        advance: is called with the number of chunks that are done, and the number of all.

    Raises:
        TextError: the text is shorter than a chunk.
        ModelError: the model cannot be loaded or evaluated.
        OutputError: the file cannot be written.

    """
    read_model(model)
    with Model(model) as loaded, _context(loaded, chunk, threads) as context:
        ids = split(loaded)
        count = min(len(ids) // chunk, chunks or len(ids))
        if not count:
            raise TextError(
                f"the text has {len(ids)} tokens, less than a chunk of {chunk}; use more text, or --chunk 128"
            )
        header = Header(chunk, loaded.n_vocab, np.array(ids[: count * chunk], np.int32).reshape(count, chunk))
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        check_space(path.parent, count * logits_file.scored(chunk) * header.row_bytes)
        with logits_file.writing(path, header) as file, ThreadPoolExecutor(threads) as pool:
            for number, tokens in enumerate(header.tokens):
                for rows, logits in scored_logits(context, tokens):
                    parts = [logits[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
                    for encoded in pool.map(logits_file.encode, parts):
                        file.write(encoded.tobytes())
                advance(number + 1, count)
    return header


def evaluate(model: Path, reference: Path, *, threads: int = 1, advance: Advance = _quiet) -> Divergence:
    """Compare a model with the log-probabilities of a reference.

    Raises:
        LogitsError: the file is damaged, or has another vocabulary.
        ModelError: the model cannot be loaded or evaluated.

    """
    return compared(model, reference, threads=threads, advance=advance).figures()


def compared(model: Path, reference: Path, *, threads: int = 1, advance: Advance = _quiet) -> Accumulator:
    """Compare as `evaluate` does; return every row, chunk by chunk, of which each has as many."""
    header = logits_file.read_header(reference)
    read_model(model)
    found = Accumulator()
    with Model(model) as loaded, _context(loaded, header.chunk, threads) as context:
        if loaded.n_vocab != header.vocabulary:
            raise LogitsError(
                f"{model}: has {loaded.n_vocab} tokens, the reference {header.vocabulary}; "
                "compare models of one vocabulary"
            )
        for number in range(len(header.tokens)):
            add_chunk(found, context, header, reference, number, threads)
            advance(number + 1, len(header.tokens))
    return found


def add_chunk(
    found: Accumulator, context: Context, header: Header, reference: Path, number: int, threads: int = 1
) -> None:
    """Evaluate one chunk of the reference's text and add the comparison."""
    tokens = header.tokens[number]
    first = header.chunk // 2

    def part(rows: range, logits: Floats) -> Accumulator:
        with reference.open("rb") as file:
            wanted = logits_file.read_rows(file, header, number, [row - first for row in rows])
        one = Accumulator()
        one.add(wanted, logits, tokens[rows.start + 1 : rows.stop + 1])
        return one

    with ThreadPoolExecutor(threads) as pool:
        for rows, logits in scored_logits(context, tokens):
            starts = range(0, len(rows), BLOCK_ROWS)
            blocks = [(rows[i : i + BLOCK_ROWS], logits[i : i + BLOCK_ROWS]) for i in starts]
            for one in pool.map(lambda block: part(*block), blocks):
                found.merge(one)


def scored_logits(context: Context, tokens: Tokens) -> Iterator[tuple[range, Floats]]:
    """Evaluate a chunk with an empty context; yield the scored positions and their logits, valid until the next."""
    chunk = len(tokens)
    first, last = chunk // 2, chunk - 1
    context.clear()
    for start in range(0, chunk, context.n_batch):
        stop = min(start + context.n_batch, chunk)
        wanted = max(0, stop - max(start, first))
        context.evaluate(tokens[start:stop].tolist(), start, outputs=wanted)
        rows = range(stop - wanted, min(stop, last))
        if wanted and len(rows):
            yield rows, context.last_logits(wanted)[: len(rows)]


def _context(model: Model, chunk: int, threads: int) -> Context:
    batch = min(chunk, N_BATCH)
    spec = ContextSpec(chunk, n_batch=batch, n_threads=threads, n_outputs=min(batch, chunk - chunk // 2))
    return Context(model, spec)


def bits_per_weight(model: Path) -> float:
    """Return the bits of all tensors, over the weights in them."""
    tensors = read_model(model).tensors
    return 8 * sum(t.nbytes for t in tensors) / max(1, sum(int(np.prod(t.shape)) for t in tensors))
