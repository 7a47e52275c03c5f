"""Byte-level BPE, what Qwen3.5 publishes: tokenizer.json, or vocab.json with merges.txt, as llama.cpp's "gpt2"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gguf import GGUFValueType, Keys, TokenType

from qwen35_gguf.convert.tokenizer import pre_tokenizer
from qwen35_gguf.convert.tokenizer.added_tokens import added_tokens
from qwen35_gguf.convert.tokenizer.files import TokenizerFiles
from qwen35_gguf.convert.tokenizer.token_list import TokenList, array
from qwen35_gguf.gguf_file.keyvalue import KeyValue
from qwen35_gguf.json_file import LIST, OBJECT, TEXT, JsonObject, read_json, read_text


def entries(files: TokenizerFiles, size: int, notes: list[str]) -> tuple[list[KeyValue], dict[str, int]]:
    """Return the entries of the vocabulary, and the ids of its tokens by text.

    Args:
        files: of the checkpoint.
        size: rows of the embedding.
        notes: gets what the user should know, one line each.

    Raises:
        CheckpointError: the model is not BPE, an entry is malformed, or an id is used twice or is outside of `size`.

    """
    if files.tokenizer.values:
        where, model = files.tokenizer.where, files.tokenizer.section("model")
        if model.get("type", TEXT, "BPE") != "BPE":
            raise model.mistake("type", "BPE; only Qwen's byte-level BPE is known")
        vocabulary = model.need("vocab", OBJECT)
        merges = list(_merges(model))
        notes += pre_tokenizer.notes_of(files.tokenizer)
    else:
        path = files.directory / "vocab.json"
        where, vocabulary, merges = (
            str(path),
            dict(read_json(path).values),
            _merges_of_text(path.with_name("merges.txt")),
        )

    tokens = TokenList(where, size)
    for text, id_ in vocabulary.items():
        tokens.add(id_, text, TokenType.NORMAL)
    ids: dict[str, int] = dict(vocabulary)
    for token in added_tokens(files, vocabulary, size, notes):
        tokens.add(token.id, token.text, token.type, token.written)
        ids[token.text] = token.id
    found = [
        KeyValue.of(Keys.Tokenizer.MODEL, "gpt2", GGUFValueType.STRING),
        KeyValue.of(Keys.Tokenizer.PRE, pre_tokenizer.NAME, GGUFValueType.STRING),
        *tokens.entries(),
    ]
    if merges:
        found.append(array(Keys.Tokenizer.MERGES, merges, GGUFValueType.STRING))
    return found, ids


def _merges(model: JsonObject) -> Iterator[str]:
    """Yield the merges as "left right". A space inside a part becomes "Ġ", the byte-level alphabet's space."""
    for number, merge in enumerate(model.get("merges", LIST, [])):
        if isinstance(merge, str):
            yield merge
        elif isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
            yield " ".join(part.replace(" ", chr(ord(" ") + 256)) for part in merge)
        else:
            must = "a merge: 'left right' or ['left', 'right']"
            raise model.inner({f"merges[{number}]": merge}, model.path).mistake(f"merges[{number}]", must)


def _merges_of_text(path: Path) -> list[str]:
    lines = read_text(path).splitlines()
    return [line for line in lines if line.strip() and not (line is lines[0] and line.startswith("#version"))]
