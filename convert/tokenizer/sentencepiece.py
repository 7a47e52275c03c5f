"""A SentencePiece model, tokenizer.model, as llama.cpp's "llama"; only where there is no tokenizer.json."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFValueType, Keys, TokenType

from qwen35_gguf.convert.tokenizer.added_tokens import AddedToken, declared_tokens, tag_notes
from qwen35_gguf.convert.tokenizer.files import TokenizerFiles
from qwen35_gguf.convert.tokenizer.token_list import TokenList, array
from qwen35_gguf.errors import CheckpointError, MissingDependencyError
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.json_file import COUNT

# Scores for ids without a piece and for added tokens: far below any trained log-probability.
_UNUSED_SCORE = -10000.0
_ADDED_SCORE = -1000.0


def entries(files: TokenizerFiles, size: int, notes: list[str]) -> list[KeyValue]:
    """Return the entries of the vocabulary; arguments and errors as of `bpe.entries`.

    Raises:
        MissingDependencyError: the package that reads such models is not installed.

    """
    path = files.directory / "tokenizer.model"
    tokens, scores = _pieces(path, size)
    # Added tokens replace pieces: fine-tunes rename the reserved ones. tokenizer_config.json overrules both.
    renamed = {files.added.need(text, COUNT): (text, TokenType.USER_DEFINED, text) for text in files.added.values}
    declared = [AddedToken(id_, text, special) for id_, (text, special) in declared_tokens(files.settings, notes)]
    renamed |= {token.id: (token.text, token.type, token.written) for token in declared}
    for id_, (text, type_, written) in renamed.items():
        tokens.rename(id_, text, type_, written)
        scores[id_] = _ADDED_SCORE
    notes += tag_notes(declared)
    listed, types = tokens.entries()
    return [
        KeyValue.of(Keys.Tokenizer.MODEL, "llama", GGUFValueType.STRING),
        KeyValue.of(Keys.Tokenizer.PRE, "default", GGUFValueType.STRING),
        listed,
        array(Keys.Tokenizer.SCORES, [scores.get(i, _UNUSED_SCORE) for i in range(size)], GGUFValueType.FLOAT32),
        types,
    ]


def _pieces(path: Path, size: int) -> tuple[TokenList, dict[int, float]]:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise MissingDependencyError(
            f"{path} is a SentencePiece model; install its reader: pip install sentencepiece"
        ) from None
    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromFile(str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model ({error}); download it again") from error
    kinds = (
        (pieces.IsUnknown, TokenType.UNKNOWN),
        (pieces.IsControl, TokenType.CONTROL),
        (pieces.IsUnused, TokenType.UNUSED),
        (pieces.IsByte, TokenType.BYTE),
    )
    tokens, scores = TokenList(str(path), size), dict[int, float]()
    for id_ in range(pieces.vocab_size()):
        kind = next((kind for test, kind in kinds if test(id_)), TokenType.NORMAL)
        tokens.add(id_, pieces.IdToPiece(id_), kind)
        scores[id_] = pieces.GetScore(id_)
    return tokens, scores
