"""Tokens that are found in text before words are split: which file lists them, their ids and their types.

Source: transformers tokenization_utils_base.py (`_from_pretrained`) and tokenization_utils_tokenizers.py (`__init__`):
`added_tokens_decoder` of tokenizer_config.json counts alone; without it added_tokens.json, overruled by tokenizer.json;
special tokens that none of them lists get the next ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gguf import TokenType

from qwen35_gguf.architecture.tags import TAGS
from qwen35_gguf.convert.tokenizer.files import DECODER, TokenizerFiles
from qwen35_gguf.json_file import COUNT, FLAG, OBJECT, TEXT, JsonObject

# Added tokens that publishers forget to mark as special, besides <|...|>.
_SPECIAL_TEXTS = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_SPECIAL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))  # noqa: RUF001 - DeepSeek's full-width bars
_STRIPS = ("lstrip", "rstrip", "single_word")  # flags that a GGUF file has no place for


@dataclass(frozen=True)
class AddedToken:
    """An added token with its declared id."""

    id: int
    text: str
    special: bool

    @property
    def type(self) -> TokenType:
        """How llama.cpp treats it: a control token is not shown; a user-defined one is text."""
        if self.text not in TAGS and (self.special or looks_special(self.text)):
            return TokenType.CONTROL
        return TokenType.USER_DEFINED

    @property
    def written(self) -> str:
        """Its text in the file: llama.cpp matches it against raw text, where SentencePiece's space mark is not."""
        return self.text if self.type == TokenType.CONTROL else self.text.replace("▁", " ")


def looks_special(text: str) -> bool:
    """Report whether a token's text has the form of a special one."""
    return text in _SPECIAL_TEXTS or any(text.startswith(a) and text.endswith(b) for a, b in _SPECIAL_BRACKETS)


def added_tokens(files: TokenizerFiles, vocabulary: Mapping[str, int], size: int, notes: list[str]) -> list[AddedToken]:
    """Return the added tokens.

    Args:
        files: of the checkpoint.
        vocabulary: the ids of the other tokens by text.
        size: rows of the embedding.
        notes: gets what the user should know, one line each.

    Raises:
        CheckpointError: an entry is malformed, or two tokens of one file share an id.

    """
    listed = dict(_listed(files, notes))
    notes += _gap_notes(sorted(id_ for id_, (text, _) in listed.items() if text not in vocabulary), vocabulary)
    special = files.special
    found = [AddedToken(id_, text, flag or text in special) for id_, (text, flag) in listed.items()]
    known = {token.text for token in found}
    following = max((*vocabulary.values(), *listed), default=-1) + 1
    for text in (text for text in special if text not in known):
        id_ = vocabulary.get(text, following)
        what = "is found in text before words are split" if text in vocabulary else f"gets the id {id_}"
        if id_ < size:
            found.append(AddedToken(id_, text, special=text not in vocabulary))
            notes.append(f"the special token {text!r} is not among the added tokens: it {what}, as in transformers")
        else:
            notes.append(f"the special token {text!r} is left out: it has no id, and all {size:,} are taken")
        following += id_ == following
    notes += tag_notes(found)
    return found


def tag_notes(tokens: Iterable[AddedToken]) -> Iterator[str]:
    """Yield a note if tags of the output are marked as special."""
    marked = [token.text for token in tokens if token.text in TAGS and token.special]
    if marked:
        yield f"{', '.join(marked)}: marked as special; written as user-defined, since programs read these tags as text"


def _listed(files: TokenizerFiles, notes: list[str]) -> Iterator[tuple[int, tuple[str, bool]]]:
    """Yield id, text and flag of each token of the file that counts; a later one overrules an earlier one."""
    inside = dict(_of_tokenizer(files.tokenizer, notes))
    if not files.has_decoder:
        for text in files.added.values:
            yield files.added.need(text, COUNT), (text, text in files.special)
        yield from inside.items()
        return
    declared = dict(declared_tokens(files.settings, notes))
    if files.tokenizer.values:
        notes += _differences(inside, declared)
    yield from declared.items()


def _of_tokenizer(tokenizer: JsonObject, notes: list[str]) -> Iterator[tuple[int, tuple[str, bool]]]:
    seen: dict[int, str] = {}
    for entry in tokenizer.sections("added_tokens"):
        id_, text = entry.need("id", COUNT), entry.need("content", TEXT)
        if seen.setdefault(id_, text) != text:
            raise entry.mistake("id", f"different from that of {seen[id_]!r}")
        yield id_, (text, _flag(entry, text, notes))


def declared_tokens(settings: JsonObject, notes: list[str]) -> Iterator[tuple[int, tuple[str, bool]]]:
    """Yield id, text and flag of each entry of `added_tokens_decoder`. Raises CheckpointError for a malformed one."""
    decoder = settings.section(DECODER)
    for key in decoder.values:
        if not key.isdecimal():
            raise decoder.mistake(key, "removed: the keys are ids, and this one is not a number")
        entry = decoder.inner(decoder.need(key, OBJECT), f"{DECODER}.{key}")
        text = entry.need("content", TEXT)
        yield int(key), (text, _flag(entry, text, notes))


def _flag(entry: JsonObject, text: str, notes: list[str]) -> bool:
    strips = [flag for flag in _STRIPS if entry.get(flag, FLAG)]
    if strips:
        note = f"the added token {text!r} has {', '.join(strips)}, which a GGUF file cannot hold: spaces stay beside it"
        if note not in notes:
            notes.append(note)
    return bool(entry.get("special", FLAG))


def _differences(inside: dict[int, tuple[str, bool]], declared: dict[int, tuple[str, bool]]) -> Iterator[str]:
    """Yield a note for each kind of difference between tokenizer.json and tokenizer_config.json, which counts."""
    counts = "tokenizer_config.json counts, as in transformers"
    both = sorted(set(inside) & set(declared))
    renamed = [id_ for id_ in both if inside[id_][0] != declared[id_][0]]
    if renamed:
        id_ = renamed[0]
        yield (
            f"token {id_} is {inside[id_][0]!r} in tokenizer.json and {declared[id_][0]!r} in tokenizer_config.json"
            f"{_more(len(renamed))}; {counts}"
        )
    flagged = [id_ for id_ in both if id_ not in renamed and inside[id_][1] != declared[id_][1]]
    if flagged:
        id_ = flagged[0]
        where = "tokenizer.json" if inside[id_][1] else "tokenizer_config.json"
        yield f"token {inside[id_][0]!r} is special only in {where}{_more(len(flagged))}; {counts}"
    missing = [id_ for id_ in inside if id_ not in declared]
    if missing:
        yield (
            f"tokenizer.json adds {inside[missing[0]][0]!r}{_more(len(missing))}, which added_tokens_decoder lacks; "
            f"{counts}: it is spelled with other tokens"
        )


def _gap_notes(ids: list[int], vocabulary: Mapping[str, int]) -> Iterator[str]:
    first = max(vocabulary.values(), default=-1) + 1
    wrong = next((id_ for expected, id_ in enumerate(ids, first) if id_ != expected), None)
    if wrong is not None:
        yield f"no added token has the id before {wrong}: transformers would move it and the later ones; ids are kept"


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""
