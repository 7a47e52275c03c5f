"""Tokenizer files -> the ``tokenizer.*`` keys of a GGUF file.

Read with plain JSON: neither transformers nor tokenizers is needed. Three sources are known, the first of them
counts: tokenizer.json, vocab.json with merges.txt (both byte-level BPE), tokenizer.model (SentencePiece).

The keys and their types are those of ``gguf.SpecialVocab`` and of llama.cpp's converter. Left out, because no Qwen3.5
tokenizer has them: other BPE flavours (``byte_fallback``) and WordPiece.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qwen35_gguf.convert.tokenizer import bpe, sentencepiece
from qwen35_gguf.convert.tokenizer.chat_template import chat_templates
from qwen35_gguf.convert.tokenizer.files import read_files
from qwen35_gguf.convert.tokenizer.special_ids import add_token_flags, special_ids
from qwen35_gguf.errors import CheckpointError
from qwen35_gguf.gguf_file.keyvalue import KeyValue


@dataclass(frozen=True)
class Vocabulary:
    """The entries of a tokenizer.

    Attributes:
        entries: in the order of the file.
        notes: what to tell the user, one line each.

    """

    entries: tuple[KeyValue, ...]
    notes: tuple[str, ...] = ()


def read_vocabulary(directory: Path, vocab_size: int) -> Vocabulary:
    """Return the ``tokenizer.*`` entries of the checkpoint in ``directory``.

    Args:
        directory: The folder with the tokenizer's files.
        vocab_size: Rows of the embedding; ids without a token are filled with ``[PAD{id}]``, marked unused.

    Raises:
        CheckpointError: No tokenizer, an unreadable file, or an id that is used twice or is outside of the vocabulary.
        MissingDependencyError: A SentencePiece model without the package that reads it.

    """
    files, notes = read_files(directory), list[str]()
    pair = [directory / name for name in ("vocab.json", "merges.txt")]
    ids: dict[str, int] = {}
    if files.tokenizer.values or all(path.is_file() for path in pair):
        entries, ids = bpe.entries(files, vocab_size, notes)
    elif (directory / "tokenizer.model").is_file():
        entries = sentencepiece.entries(files, vocab_size, notes)
    else:
        raise CheckpointError(
            f"{directory}: no tokenizer found; copy tokenizer.json (or tokenizer.model) of the original model into it"
        )
    entries += special_ids(files, ids, vocab_size, notes)
    entries += add_token_flags(files)
    entries += chat_templates(files, notes)
    return Vocabulary(tuple(entries), tuple(notes))
